"""Sources: loading, hashing, compatibility, the immutable `ModelPool`, the tiny zoo.

Nothing is imported here, so that modules which only need hashes stay free of torch.
"""
