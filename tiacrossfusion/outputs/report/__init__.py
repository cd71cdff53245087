"""One HTML page for a whole run, which opens in any browser and needs no network.

A fragment is stored for each predicted slide, and the page is made from the fragments alone, so that a
resumed run or a run on many machines does not open a slide again.
"""
