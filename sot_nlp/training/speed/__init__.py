"""What makes training fast: precision, CUDA graphs, CPU kernels, and features of a frozen backbone."""
