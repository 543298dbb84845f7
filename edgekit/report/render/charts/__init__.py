"""Figures as inline SVG, written without a plotting library.

A figure is 360 units wide. On a phone that is the width of the page, so text keeps its size; on a screen there is room
for the table beside it. Colours are classes of ``charts.css``, so a figure is light or dark like the page. No meaning
depends on colour alone: before is dashed and hollow, after is solid and filled.
"""
