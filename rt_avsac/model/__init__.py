"""The network: AVSAC (arXiv 2402.02327) in the paper's form and in an edge form, one code chosen by `ModelSettings`."""
