#!/bin/sh
# transformers 5.5.4 (the version that optimum-intel 2.2.0 installs beside torch 2.13.0), pillow 12.0.0, torch 2.13.0 (CPU), no torchvision.
#
# AutoImageProcessor.from_pretrained(folder, backend="pil") asks for the processor that needs Pillow alone. Expected: it loads. Seen: ImportError that asks for
# torchvision, with backend="pil", with use_fast=False and without either. ViTImageProcessorPil.from_pretrained(folder), the class that this backend stands for, loads
# and works. In 5.24.0 all of these load the Pillow processor.
#
# Prints what each call comes to. Ends with 0 while that is so in both versions, else with 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
try() {
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 pillow==12.0.0 "transformers==$1"
  HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - "$1" "$2" "$folder/model-$1" <<'END'
import json
import pathlib
import sys

from transformers import AutoImageProcessor, ViTImageProcessorPil

version, expected, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
folder.mkdir()
(folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
(folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}))


def outcome(load):
    try:
        return type(load()).__name__
    except ImportError as error:
        return "ImportError" if "orchvision" in str(error) else f"another ImportError: {error}"


auto = [outcome(lambda: AutoImageProcessor.from_pretrained(folder, **choice)) for choice in ({}, {"backend": "pil"}, {"use_fast": False})]
direct = outcome(lambda: ViTImageProcessorPil.from_pretrained(folder))
print(f"transformers {version}: AutoImageProcessor alone, with backend='pil', with use_fast=False: {', '.join(auto)}; ViTImageProcessorPil: {direct}")
sys.exit(auto != [expected] * 3 or direct != "ViTImageProcessorPil")
END
}
try 5.5.4 ImportError
try 5.24.0 ViTImageProcessorPil
