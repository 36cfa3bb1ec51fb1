//! The frozen backbone: the only file with code for the cache.

use std::path::PathBuf;

use tch::vision::resnet::resnet18_no_final_layer;
use tch::{Device, Kind, TchError, Tensor, nn};
use torchcache::{TorchCache, torchcache};

use crate::args::{Args, SEED};

/// ResNet-18 without its last layer, with the preparation of its images.
///
/// The preparation is part of the cached module, so that small images of bytes are hashed and not large
/// ones of floats.
#[torchcache(persistent = true, max_memory_cache_size = "2 GB")]
#[derive(Debug)]
pub(crate) struct Backbone {
    /// Its weights are private; the hash gets them from `vs`.
    #[torchcache(skip)]
    resnet: nn::FuncT<'static>,
    vs: nn::VarStore,
    side: i64,
    pub(crate) torchcache_enabled: bool,
    pub(crate) torchcache_persistent_cache_dir: PathBuf,
    /// In bytes; `None` is the attribute's value.
    pub(crate) torchcache_max_memory_cache_size: Option<u64>,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl nn::ModuleT for Backbone {
    /// `[B, 1, H, W]` bytes in, `[B, 512]` features out.
    fn forward_t(&self, images: &Tensor, train: bool) -> Tensor {
        let device = self.vs.device();
        // ImageNet's mean and standard deviation.
        let mean = Tensor::from_slice(&[0.485f32, 0.456, 0.406]).view([3, 1, 1]);
        let deviation = Tensor::from_slice(&[0.229f32, 0.224, 0.225]).view([3, 1, 1]);
        let grey = images.to_device(device).to_kind(Kind::Float) / 255.0;
        let large = grey.upsample_bilinear2d([self.side, self.side], false, None, None);
        let rgb = (large - mean.to_device(device)) / deviation.to_device(device);
        self.resnet.forward_t(&rgb, train)
    }
}

impl Backbone {
    /// Loads the weights of a file, or creates seeded ones.
    ///
    /// # Errors
    ///
    /// The file does not contain the weights of a ResNet-18.
    pub(crate) fn new(args: &Args) -> Result<Self, TchError> {
        tch::manual_seed(SEED);
        let mut vs = nn::VarStore::new(Device::cuda_if_available());
        let resnet = resnet18_no_final_layer(&vs.root());
        if let Some(file) = &args.weights {
            vs.load(file)?;
        }
        vs.freeze();
        Ok(Backbone {
            resnet,
            vs,
            side: args.side,
            torchcache_enabled: true,
            torchcache_persistent_cache_dir: PathBuf::from("features"),
            torchcache_max_memory_cache_size: args.memory,
            torchcache: TorchCache::default(),
        })
    }

    pub(crate) fn device(&self) -> Device {
        self.vs.device()
    }
}
