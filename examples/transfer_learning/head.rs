//! The trained head: a batch norm and a linear layer.

use tch::nn::{ModuleT, OptimizerConfig};
use tch::{Device, TchError, Tensor, nn};

/// The head and its optimiser.
pub(crate) struct Head {
    net: nn::SequentialT,
    optimizer: nn::Optimizer,
}

impl Head {
    /// Creates a head with random weights.
    ///
    /// # Errors
    ///
    /// libtorch cannot build the optimiser.
    pub(crate) fn new(device: Device) -> Result<Self, TchError> {
        let vs = nn::VarStore::new(device);
        let root = vs.root();
        let net = nn::seq_t()
            .add(nn::batch_norm1d(&root / "norm", 512, Default::default()))
            .add(nn::linear(&root / "linear", 512, 10, Default::default()));
        let optimizer = nn::Adam::default().build(&vs, 1e-2)?;
        Ok(Head { net, optimizer })
    }

    /// Trains on a batch: `[B, 512]` features, `[B]` labels.
    pub(crate) fn step(&mut self, features: &Tensor, labels: &Tensor) {
        let scores = self.net.forward_t(features, true);
        self.optimizer
            .backward_step(&scores.cross_entropy_for_logits(labels));
    }

    /// The predicted classes of `[B, 512]` features.
    pub(crate) fn classes(&self, features: &Tensor) -> Tensor {
        tch::no_grad(|| self.net.forward_t(features, false)).argmax(-1, false)
    }
}
