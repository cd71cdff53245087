"""Report: one page for a whole run, which opens in any browser and needs no network.

Each slide leaves a fragment when it is predicted; the page is put together from the fragments alone,
so that neither a resumed run nor a run on many machines opens a slide again. The names are loaded when
they are first used.
"""
