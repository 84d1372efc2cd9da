"""Cut columns of numbers into bins: by equal width, by equal frequency, or by clustering.

The estimators follow scikit-learn and work in its pipelines. They learn from parts of any number
(``partial_fit``) within bounded memory; bins are made when they are first asked for. What they do with

NaN, infinity    refused with DataError (a ValueError), in learning and afterwards; nothing changes
large numbers    refused in learning where bins cannot hold them: after float32 those beyond it
constant column  one bin, whose centre is the constant
few values       no more different values than bins: one bin for each (equal width keeps its bins)
repeated values  never parted; cuts by equal frequency that fall together merge into one
n_bins = 1       everything has code 0
values outside   belong to the first or the last bin

Where scikit-learn's KBinsDiscretizer means the same, codes agree: ``uniform`` with equal width,
``quantile`` (with linear interpolation) with equal frequency, ``kmeans`` up to the local optimum that
is found. Differences: a constant column has the edges [c, c] rather than infinite ones; few values get
bins of their own; centres are the means of the values, not the middle (equal width: the middle); there
are no sample weights, and codes are plain integers, never one-hot.
"""

from retrieval.discretize.estimators import (
    EqualFrequencyDiscretizer,
    EqualWidthDiscretizer,
    KMeansDiscretizer,
    ProductDiscretizer,
)

__all__ = [
    "EqualFrequencyDiscretizer",
    "EqualWidthDiscretizer",
    "KMeansDiscretizer",
    "ProductDiscretizer",
]
