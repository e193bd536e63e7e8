"""Classes with the signatures, and the quirks, of the programs that people have.

One module a family: `fatchord`, `rtvc`, `torchaudio`, `univoc`. They take and return what the
original takes and returns and differ in speed alone; where the original crashes, they sound.
`acceleration` puts the same methods on a live PyTorch module (`wavernn_fast.accelerate`). None of
them imports PyTorch: tensors in, tensors out, and numpy arrays likewise. docs/drop-in.md tells how
to change over.
"""
