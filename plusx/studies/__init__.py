"""Studies: the paper's claims as experiments that anyone can run again, and that may come out either way.

A new study is a module with a `STUDY`, and an entry of `STUDIES`. This module imports no torch.
"""

BUDGETS = {
    "quick": "10,000 training and 2,000 test images of CIFAR-10, averaged to 16 px; the paper's recipe for 79 to "
    "948 steps, its rate rising for a fifth of them and then falling in a line to 0",
    "paper": "all of CIFAR-10; the paper's recipe for its 64,000 steps, its rate a tenth from step 32,000 and a "
    "hundredth from 48,000",
}
STUDIES = {
    "degradation": "deeper plain nets train worse, deeper residual nets better (Figs. 1 and 6, Table 6)",
    "gradients": "where gradients vanish: by depth, with and without batch norm and shortcuts",
    "responses": "residual branches respond weakly (Fig. 7)",
    "shortcuts": "options A, B and C (Table 3)",
    "init": "Xavier against He",
    "colour": "PCA colour augmentation",
    "placement": "the stride of a bottleneck, and batch norm before or after the addition",
    "mlp": "degradation in fully connected nets",
    "depth": "how much each F(x) carries: blocks dropped from trained nets",
}
"""Names, and what each is about; the module of that name in this package holds it."""
