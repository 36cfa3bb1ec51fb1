//! The frozen backbone, and the only file that knows of the cache.

use std::path::PathBuf;

use tch::vision::resnet::resnet18_no_final_layer;
use tch::{Device, Kind, TchError, Tensor, nn};
use torchcache::{TorchCache, torchcache};

use crate::SEED;
use crate::args::Args;

/// ResNet-18 without its last layer, with the preparation of the images in front of it.
///
/// The preparation is inside, so that what is hashed for a row is the small image of bytes and
/// not the large one of floats.
#[torchcache(persistent = true, max_memory_cache_size = "2 GB")]
#[derive(Debug)]
pub(crate) struct Backbone {
    /// Hides its weights: the `VarStore` beside it gives them.
    #[torchcache(skip)]
    resnet: nn::FuncT<'static>,
    vs: nn::VarStore,
    side: i64,
    pub(crate) torchcache_enabled: bool,
    pub(crate) torchcache_persistent_cache_dir: PathBuf,
    /// In bytes; `None` leaves it at what the attribute says.
    pub(crate) torchcache_max_memory_cache_size: Option<u64>,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl nn::ModuleT for Backbone {
    /// `[B, 1, H, W]` bytes in, `[B, 512]` features out.
    fn forward_t(&self, images: &Tensor, train: bool) -> Tensor {
        let device = self.vs.device();
        // What ImageNet's images were normalised with.
        let mean = Tensor::from_slice(&[0.485f32, 0.456, 0.406]).view([3, 1, 1]);
        let deviation = Tensor::from_slice(&[0.229f32, 0.224, 0.225]).view([3, 1, 1]);
        let grey = images.to_device(device).to_kind(Kind::Float) / 255.0;
        let large = grey.upsample_bilinear2d([self.side, self.side], false, None, None);
        let rgb = (large - mean.to_device(device)) / deviation.to_device(device);
        self.resnet.forward_t(&rgb, train)
    }
}

impl Backbone {
    /// With the weights of a file, or with weights that are the same in every process.
    ///
    /// # Errors
    ///
    /// A file that does not hold the weights of a ResNet-18.
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
