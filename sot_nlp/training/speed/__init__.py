"""Speed: precision, CUDA graphs, CPU kernels, and cached features of a frozen backbone."""
