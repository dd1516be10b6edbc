"""Storage: the files of a VAE and of a run, each written whole and checked when it is read.

- :mod:`.writing`: write a file under a temporary name, flush it, then rename it;
- :mod:`.checkpoint`: the file with the weights and all that training needs to go on;
- :mod:`.tensors`: the checks of a file of tensors;
- :mod:`.creating`: make the folder of a run or of a saved VAE.
"""
