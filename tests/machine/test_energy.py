"""The energy meters, on trees of files as kernels write them; joules are worked out by hand."""

from __future__ import annotations

import threading
import time

import pytest
from fake_jetson import write
from refusals import refused

from edgekit.machine import energy
from edgekit.machine.energy import find_meter, integral, measure_per_answer, unavailable_reason

RAPL = "sys/class/powercap"
HWMON = "sys/class/hwmon"
RANGE = 262143328850  # microjoules, of an Intel server: (2**32 - 1) * 61.035 nearly


def zone(name, label, counter, span=RANGE):
    folder = f"{RAPL}/{name}"
    return {
        f"{folder}/name": f"{label}\n",
        f"{folder}/energy_uj": f"{counter}\n",
        f"{folder}/max_energy_range_uj": f"{span}\n",
    }


def server(first, second):
    """Two packages, and all that must not be added to them."""
    more = {
        **zone("intel-rapl:0:0", "core", 7),
        **zone("intel-rapl:0:1", "dram", 7),
        **zone("intel-rapl:2", "psys", 10**9),
        **zone("intel-rapl-mmio:0", "package-0", 10**9),
        f"{RAPL}/intel-rapl/enabled": "1\n",
    }
    return {**zone("intel-rapl:0", "package-0", first), **zone("intel-rapl:1", "package-1", second), **more}


def sensor(number, *rails, name="ina3221"):
    """Rails as name, millivolts and milliamperes."""
    place = f"{HWMON}/hwmon{number}"
    files = {f"{place}/name": f"{name}\n", f"{place}/in7_label": "sum of shunt voltages\n", f"{place}/in7_input": "9\n"}
    for channel, (label, voltage, current) in enumerate(rails, 1):
        files |= {
            f"{place}/in{channel}_label": f"{label}\n",
            f"{place}/in{channel}_input": f"{voltage}\n",
            f"{place}/curr{channel}_input": f"{current}\n",
        }
    return files


ORIN_NANO = sensor(1, ("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300))
AGX_ORIN = {
    **sensor(3, ("VDD_GPU_SOC", 20000, 100), ("VDD_CPU_CV", 20000, 50), ("VIN_SYS_5V0", 5000, 800)),
    **sensor(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)),
}


def measure(root, before, after):
    meter = find_meter(write(root, before))
    meter.start()
    write(root, after)
    return meter.stop()


# ---- RAPL


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    meter = find_meter(write(tmp_path, server(1_000_000, 5_000_000)))
    assert (meter.source, unavailable_reason(tmp_path)) == ("RAPL package-0 + package-1", "")
    meter.start()
    write(
        tmp_path,
        {
            **server(3_500_000, 5_250_000),
            **zone("intel-rapl:0:0", "core", 10**8),
            **zone("intel-rapl:2", "psys", 10**10),
        },
    )
    assert meter.stop() == 2.75  # 2.5 J and 0.25 J


def test_it_measures_again_and_again(tmp_path):
    meter = find_meter(write(tmp_path, server(0, 0)))
    for times in range(1, 4):
        meter.start()
        write(tmp_path, server(times * 1_000_000, 0))
        assert meter.stop() == 1.0


def test_a_counter_that_turns_over(tmp_path):
    """From 1 J below the end to 2 J above zero, on one of two packages."""
    assert measure(tmp_path, server(RANGE - 1_000_000, 10), server(2_000_000, 500_010)) == 3.5


def test_a_counter_that_goes_back_and_whose_range_is_not_known(tmp_path):
    for span in ("0", "", "-5", "many"):
        assert (
            measure(
                tmp_path, zone("intel-rapl:0", "package-0", 9_000, span), zone("intel-rapl:0", "package-0", 8_000, span)
            )
            is None
        )
    assert (
        measure(
            tmp_path, zone("intel-rapl:0", "package-0", 9_000, 8_500), zone("intel-rapl:0", "package-0", 8_000, 8_500)
        )
        is None
    )  # beyond its range
    assert (
        measure(tmp_path, zone("intel-rapl:0", "package-0", 9_000, "0"), zone("intel-rapl:0", "package-0", 9_500, "0"))
        == 0.0005
    )  # forwards needs no range


def test_a_counter_that_stands_still_has_measured_nothing(tmp_path):
    assert measure(tmp_path, server(5, 5), {}) is None
    assert measure(tmp_path, server(0, 0), {}) is None


@pytest.mark.parametrize("content", ["", "garbage", "-5", "1.5"])
def test_a_counter_that_can_no_longer_be_read(tmp_path, content):
    assert measure(tmp_path, server(5, 5), {**server(9, 5), f"{RAPL}/intel-rapl:1/energy_uj": content}) is None


def test_names_of_packages_with_several_dies_and_their_order(tmp_path):
    files = {
        **zone("intel-rapl:10", "package-1-die-0", 5),
        **zone("intel-rapl:2", "package-0-die-1", 5),
        **zone("intel-rapl:1", "package-0-die-0", 5),
    }
    assert find_meter(write(tmp_path, files)).source == "RAPL package-0-die-0 + package-0-die-1 + package-1-die-0"


# ---- sensors


def test_the_rail_that_feeds_all(tmp_path):
    meter = find_meter(write(tmp_path, ORIN_NANO))
    assert (meter.source, unavailable_reason(tmp_path)) == ("INA3221 VDD_IN", "")
    began = time.perf_counter()
    meter.start()
    time.sleep(0.25)
    joules = meter.stop()
    took = time.perf_counter() - began
    assert 6.0 * 0.24 < joules < 6.0 * took  # 5 V * 1.2 A


def test_rails_are_added_where_none_feeds_all(tmp_path):
    """2 W, 1 W and 4 W; the memory's rail hangs on the last of them, and two channels are not connected."""
    meter = find_meter(write(tmp_path, AGX_ORIN))
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    began = time.perf_counter()
    meter.start()
    time.sleep(0.25)
    joules = meter.stop()
    took = time.perf_counter() - began
    assert 7.0 * 0.24 < joules < 7.0 * took


def test_power_that_changes_is_followed(tmp_path):
    """2 W for a moment, then 10 W: 5.2 J, where the two ends alone would give 3.6."""
    meter = find_meter(write(tmp_path, sensor(0, ("VDD_IN", 5000, 400))))
    began = time.perf_counter()
    meter.start()
    time.sleep(0.1)
    write(tmp_path, {f"{HWMON}/hwmon0/curr1_input": "2000\n"})
    step = time.perf_counter()
    time.sleep(0.5)
    joules = meter.stop()
    end = time.perf_counter()
    assert joules == pytest.approx(2 * (step - began) + 10 * (end - step), abs=0.8)


def test_which_rails_there_are(tmp_path):
    files = {
        **sensor(0, ("TEMP", 1, 1), name="tmp451"),
        **sensor(5, ("GPU", 19000, 10), ("CPU", 19000, 20), ("SOC", 19000, 30)),
        **sensor(10, ("SYS5V", 5000, 10), ("OFF", 0, 0), ("CV", 19000, -8)),
        f"{HWMON}/hwmon10/in2_enable": "0\n",
        f"{HWMON}/hwmon5/in2_enable": "1\n",
    }
    assert find_meter(write(tmp_path, files)).source == "INA3221 GPU + CPU + SOC + SYS5V + CV"


def test_a_sensor_that_fails_meanwhile(tmp_path):
    meter = find_meter(write(tmp_path, ORIN_NANO))
    meter.start()
    write(tmp_path, {f"{HWMON}/hwmon1/curr1_input": ""})
    time.sleep(0.05)
    assert meter.stop() is None  # at the end
    meter.start()
    time.sleep(0.02)
    write(tmp_path, ORIN_NANO)
    assert meter.stop() is None  # at the start
    meter.start()
    time.sleep(0.02)
    assert meter.stop() > 0


def test_no_thread_stays(tmp_path):
    meter = find_meter(write(tmp_path, ORIN_NANO))

    def threads():
        return [t for t in threading.enumerate() if t.name == "edgekit-energy"]

    meter.start()
    meter.start()  # anew
    assert len(threads()) == 1
    meter.stop()
    assert threads() == []
    with pytest.raises(ZeroDivisionError):
        measure_per_answer(meter, lambda: 1 // 0)
    assert threads() == []


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    meter = find_meter(write(tmp_path, ORIN_NANO))
    times = iter(range(1000, 0, -1))
    monkeypatch.setattr(energy.time, "perf_counter", lambda: float(next(times)))
    meter.start()
    assert meter.stop() is None


def test_integral():
    assert integral([(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)]) == 3.0 + 8.0
    assert integral([(0.0, 2.0), (0.5, None), (1.0, 4.0)]) == 3.0  # bridged
    assert integral([(5.0, -0.1), (6.0, 2.1)]) == 1.0
    for nothing in (
        [],
        [(0.0, 1.0)],
        [(0.0, None), (1.0, 1.0), (2.0, 1.0)],
        [(0.0, 1.0), (1.0, 1.0), (2.0, None)],
        [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0)],
        [(1.0, 1.0), (1.0, 1.0)],
        [(0.0, -1.0), (1.0, -1.0)],
        [(0.0, 0.0), (1.0, 0.0)],
    ):
        assert integral(nothing) is None


# ---- both


@pytest.mark.parametrize("files", [server(5, 5), ORIN_NANO])
def test_stop_without_start(tmp_path, files):
    meter = find_meter(write(tmp_path, files))
    with refused("energy-not-started"):
        meter.stop()
    meter.start()
    meter.stop()
    with refused("energy-not-started"):
        meter.stop()


def test_per_answer(tmp_path):
    meter = find_meter(write(tmp_path, server(1_000_000, 0)))

    def work(answers, counter):
        write(tmp_path, server(counter, 0))
        return answers

    assert measure_per_answer(meter, lambda: work(4, 3_000_000)) == 500.0  # 2 J over 4 answers
    assert measure_per_answer(meter, lambda: work(0, 4_000_000)) is None
    assert measure_per_answer(meter, lambda: work(4, 4_000_000)) is None  # the counter stood still
    with pytest.raises(KeyError):
        measure_per_answer(meter, lambda: {}["x"])
    assert measure_per_answer(meter, lambda: work(1, 5_000_000)) == 1000.0


def test_why_there_is_none(tmp_path):
    reason = unavailable_reason(write(tmp_path / "none", {}))
    assert "RAPL" in reason
    assert "INA3221" in reason
    assert find_meter(tmp_path / "none") is None
    only_psys = write(
        tmp_path / "psys",
        {**zone("intel-rapl:0", "psys", 5), **zone("intel-rapl-mmio:0", "package-0", 5), f"{RAPL}/dtpm/name": "x"},
    )
    assert (find_meter(only_psys), unavailable_reason(only_psys)) == (None, reason)
    root = write(tmp_path / "closed", server(5, 5))
    (root / RAPL / "intel-rapl:1/energy_uj").unlink()
    (root / RAPL / "intel-rapl:1/energy_uj").mkdir()  # root reads every file, but no folder
    assert find_meter(root) is None
    reason = unavailable_reason(root)
    assert "/sys/class/powercap/intel-rapl:1/energy_uj" in reason
    assert reason.endswith("sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj")
    root = write(tmp_path / "sensor", {**ORIN_NANO, f"{HWMON}/hwmon1/curr1_input": "\n"})
    assert find_meter(root) is None
    assert "/sys/class/hwmon/hwmon1/curr1_input" in unavailable_reason(root)


def test_a_sensor_serves_where_rapl_cannot_be_read(tmp_path):
    files = {**server(5, "closed"), **ORIN_NANO}
    assert find_meter(write(tmp_path, files)).source == "INA3221 VDD_IN"
    assert unavailable_reason(tmp_path) == ""


def test_this_machine():
    """Either it tells, and then a busy moment takes between a milliwatt and ten kilowatts, or it says why not."""
    meter = find_meter()
    assert (meter is None) == bool(unavailable_reason())
    if meter is not None:
        began = time.perf_counter()
        meter.start()
        while time.perf_counter() < began + meter.least_s:
            pass
        joules = meter.stop()
        assert joules is None or 1e-3 < joules / (time.perf_counter() - began) < 1e4
