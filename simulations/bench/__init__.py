"""`p2pnode bench`: each figure beside its baseline, both measured in the same run.

A figure without a baseline says more about the machine than about the program. One file per figure, with the
baseline's code beside it and a word on what bounds the figure; rounds interleave, so that a neighbour's noise
falls on both; medians are shown.
"""
