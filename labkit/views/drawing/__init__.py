"""Pictures of views, drawn without a browser: shapes and texts (`scene`), as SVG (`svg`) and as PNG (`png`).

`page` stacks paragraphs, tables, bitmaps and charts into a picture; `figures` draws plotly's figures.
"""
