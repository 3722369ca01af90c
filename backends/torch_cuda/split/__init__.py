"""One picture on several devices: Ulysses (Jacobs et al. 2023, DeepSpeed-Ulysses).

Every rank holds the whole transformer and a share of the tokens. Only attention needs the others: before it
each rank gives away what its tokens are in the others' heads, after it what its heads made of the others'
tokens. Rank 0 is the engine; each other rank is a process that follows it.
"""
