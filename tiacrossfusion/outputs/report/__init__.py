"""Report: one page for a whole run, which opens in any browser and needs no network.

Each slide leaves a fragment when it is predicted; the page is made from the fragments alone, so that a
resumed run or a run on many machines opens no slide again.
"""
