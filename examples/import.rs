//! Imports features that exist already, in `.npy` and `.safetensors` files, so that no image is computed again.
//!
//! A frozen network computes the features of 999 images "elsewhere", and three files get them: parts of 400, 300 and 299
//! rows. They are imported under the ids of the images. Then a second handle, as in a later program, finds all rows in
//! batches of 64 and runs the network for none.
//!
//! Run it with `cargo run --release --example import`.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

const IMAGES: i64 = 999;
const FEATURES: i64 = 64;

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Backbone {
    layer: nn::Linear,
    torchcache_persistent_cache_dir: PathBuf,
    /// How many images were computed.
    #[torchcache(skip)]
    computed: Cell<i64>,
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn forward(&self, images: &Tensor, #[id] _ids: &Tensor) -> Tensor {
        self.computed.set(self.computed.get() + images.size()[0]);
        images.apply(&self.layer).relu()
    }
}

fn backbone(layer: &nn::Linear, directory: &Path) -> Backbone {
    Backbone {
        layer: nn::Linear {
            ws: layer.ws.shallow_clone(),
            bs: layer.bs.as_ref().map(Tensor::shallow_clone),
        },
        torchcache_persistent_cache_dir: directory.to_owned(),
        computed: Cell::new(0),
        torchcache: TorchCache::default(),
    }
}

/// The rows of a `.npy` file of floats, mapped into memory: only the parts in use are read.
fn map_npy(path: &Path, columns: i64) -> Result<Tensor> {
    let mut start = [0; 10];
    let mut file = File::open(path)?;
    file.read_exact(&mut start)?;
    ensure!(
        start.starts_with(b"\x93NUMPY\x01"),
        "expected version 1 of the format"
    );
    let length = u16::from_le_bytes([start[8], start[9]]);
    let mut header = vec![0; length.into()];
    file.read_exact(&mut header)?;
    let header = String::from_utf8(header)?;
    let is_expected = header.contains("<f4") && header.contains("'fortran_order': False");
    ensure!(is_expected, "expected rows of f32: {header}");
    let (first, bytes) = (10 + i64::from(length), file.metadata()?.len() as i64);
    let name = path.to_str().context("a path of UTF-8")?;
    let file = Tensor::f_from_file(name, false, bytes, (Kind::Uint8, Device::Cpu))?;
    let elements = file.f_narrow(0, first, bytes - first)?;
    Ok(elements.f_view_dtype(Kind::Float)?.f_view([-1, columns])?)
}

fn main() -> Result<()> {
    tch::manual_seed(0); // in place of weights from a file
    let mut vs = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(vs.root(), 768, FEATURES, Default::default());
    vs.freeze();
    let images = Tensor::rand([IMAGES, 768], (Kind::Float, Device::Cpu));
    let ids = Tensor::arange(IMAGES, (Kind::Int64, Device::Cpu));

    // What another program has left.
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let features = images.apply(&layer).relu();
    features.narrow(0, 0, 400).write_npy(path("first.npy"))?;
    let second = features.narrow(0, 400, 300).contiguous();
    Tensor::write_safetensors(&[("features", second)], path("second.safetensors"))?;
    features.narrow(0, 700, 299).write_npy(path("large.npy"))?;

    let directory = path("cache");
    let cached = backbone(&layer, &directory);
    // One call shows what the network returns, and which cached functions it calls.
    let shown = cached.forward(&images.narrow(0, 0, 2), &ids.narrow(0, 0, 2));
    ensure!(shown.size() == [2, FEATURES], "the shape of the files");
    let import = |rows: Tensor, first: i64| -> Result<()> {
        let count = rows.size()[0];
        // With ids, only kind and shape of the images count: none is loaded.
        let images = Tensor::zeros([1, 768], (Kind::Float, Device::Cpu)).expand([count, -1], false);
        let ids = ids.narrow(0, first, count);
        let done = cached
            .torchcache
            .import(rows, || cached.forward(&images, &ids))?;
        println!(
            "ids {first} to {}: {} rows imported, {} present",
            first + count - 1,
            done.imported,
            done.present
        );
        Ok(())
    };
    import(Tensor::read_npy(path("first.npy"))?, 0)?;
    for (name, rows) in Tensor::read_safetensors(path("second.safetensors"))? {
        ensure!(name == "features", "expected features: {name}");
        import(rows, 400)?;
    }
    // A large file in parts, which bounds the memory.
    let mut first = 700;
    for rows in map_npy(&path("large.npy"), FEATURES)?.split(128, 0) {
        let count = rows.size()[0];
        import(rows, first)?;
        first += count;
    }
    cached.torchcache.flush()?;
    drop(cached);

    let later = backbone(&layer, &directory);
    for (images, ids) in images.split(64, 0).iter().zip(ids.split(64, 0)) {
        let found = later.forward(images, &ids);
        // The first call computed two rows, which may differ in their last bits.
        let expected = features.index_select(0, &ids);
        ensure!(
            found.allclose(&expected, 1e-5, 1e-6, false),
            "the rows of the files"
        );
    }
    let stats = later.torchcache.stats();
    println!(
        "{} rows found on disk, {} computed",
        stats.disk.hits,
        later.computed.get()
    );
    ensure!((stats.disk.hits, later.computed.get()) == (IMAGES as u64, 0));
    Ok(())
}
