"""Pictures as inline SVG, made by hand.

A picture is 360 units wide: on a phone that is the page, so that its letters stay letters, and on a screen there is room for its table beside it.
Its colours are classes of ``charts.css``, so that it is light or dark as the page is. No colour says a thing alone: before is dashed and hollow, after
solid and filled.
"""
