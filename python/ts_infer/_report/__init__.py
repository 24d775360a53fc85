"""The command `ts_infer report`: measurements of the binary as one page that opens offline.

document  the binary's JSON documents, as runs
plots     runs as SVG
page      runs, plots and tables as HTML
cli       the verb
"""
