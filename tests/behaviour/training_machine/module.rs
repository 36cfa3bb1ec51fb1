//! The nested modules of the training machine.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tch::nn::{self, BatchNorm, ModuleT};
use tch::{Device, Kind, Tensor};
use torchcache::{Cached, Options, TorchCache, torchcache};

/// The rows of the large weights. They have more than 64 KiB, so that calls compare some elements only.
pub(super) const ROWS: i64 = 400;
/// The elements of a row.
pub(super) const WIDTH: i64 = 48;

/// The numbers of the rows of each run of a forward.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs(Arc<Mutex<Vec<Vec<i64>>>>);

impl Runs {
    /// Adds a run.
    pub(super) fn note(&self, xs: &Tensor) {
        let numbers = numbers(xs).try_into().expect("numbers of rows");
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(numbers);
    }

    /// Those since the last call of this.
    pub(super) fn take(&self) -> Vec<Vec<i64>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn numbers(xs: &Tensor) -> Tensor {
    xs.select(1, 0)
}

/// The input of some rows.
pub(super) fn input(rows: &[i64]) -> Tensor {
    Tensor::from_slice(rows).view([-1, 1])
}

/// The inner module: rows of a large table, scaled and normalized.
#[torchcache]
#[derive(Debug)]
pub(super) struct Inner {
    /// A large weight, of which a training step changes few rows.
    pub(super) table: nn::Embedding,
    /// Statistics, which training writes without a trace.
    pub(super) norm: nn::BatchNorm,
    /// A small weight.
    pub(super) scale: Tensor,
    #[torchcache(skip)]
    pub(super) runs: Runs,
    pub(super) torchcache_enabled: bool,
    pub(super) torchcache_persistent: bool,
    pub(super) torchcache_persistent_cache_dir: PathBuf,
    pub(super) torchcache_verify: f64,
    pub(super) torchcache: TorchCache,
}

impl Inner {
    /// The output without a cache.
    pub(super) fn plain(&self, xs: &Tensor, train: bool) -> Tensor {
        self.scaled(xs).apply_t(&self.norm, train)
    }

    /// The output in training, without a change of the statistics.
    fn in_training(&self, xs: &Tensor) -> Tensor {
        let BatchNorm { ws, bs, .. } = &self.norm;
        let nothing = None::<&Tensor>;
        let rows = self.scaled(xs);
        rows.batch_norm(
            ws.as_ref(),
            bs.as_ref(),
            nothing,
            nothing,
            true,
            0.1,
            1e-5,
            false,
        )
    }

    fn scaled(&self, xs: &Tensor) -> Tensor {
        numbers(xs).apply(&self.table) * &self.scale
    }
}

#[torchcache]
impl ModuleT for Inner {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.runs.note(xs);
        self.plain(xs, train)
    }
}

/// The wrapped module: the numbers of the rows, multiplied by a weight.
pub(super) type Wrapped = Cached<nn::FuncT<'static>>;

/// The outer module: the other two and large and small weights. The elements of its rows are computed
/// by themselves, so that a row has the same bits in every batch.
#[torchcache]
#[derive(Debug)]
pub(super) struct Outer {
    /// An annotated module.
    pub(super) inner: Inner,
    /// A wrapped module.
    pub(super) wrapped: Wrapped,
    /// The weight of the wrapped module.
    #[torchcache(skip)]
    pub(super) wrapped_weight: Tensor,
    #[torchcache(skip)]
    pub(super) wrapped_runs: Runs,
    /// A large weight that is not contiguous.
    pub(super) strided: Tensor,
    /// A small weight.
    pub(super) offset: Tensor,
    #[torchcache(skip)]
    pub(super) runs: Runs,
    pub(super) torchcache_enabled: bool,
    pub(super) torchcache_persistent: bool,
    pub(super) torchcache_persistent_cache_dir: PathBuf,
    pub(super) torchcache_verify: f64,
    pub(super) torchcache: TorchCache,
}

#[torchcache]
impl ModuleT for Outer {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.runs.note(xs);
        let (inner, wrapped) = (
            self.inner.forward_t(xs, train),
            self.wrapped.forward_t(xs, train),
        );
        self.combine(xs, &inner, &wrapped)
    }
}

impl Outer {
    /// Frozen weights in `vs` and, for the wrapped module, in `wrapped`; rows in `directory`.
    pub(super) fn new(vs: &nn::VarStore, wrapped: &nn::VarStore, directory: &Path) -> Self {
        let root = vs.root();
        let mut strided = root.randn_standard("strided", &[ROWS, WIDTH]);
        let columns = Tensor::randn([WIDTH, ROWS], (Kind::Float, Device::Cpu));
        strided.set_data(&columns.tr());
        let weight = wrapped.root().randn_standard("weight", &[WIDTH]);
        let wrapped_runs = Runs::default();
        let inner = Inner {
            table: nn::embedding(&root / "table", ROWS, WIDTH, Default::default()),
            norm: nn::batch_norm1d(&root / "norm", WIDTH, Default::default()),
            scale: root.randn_standard("scale", &[WIDTH]),
            runs: Runs::default(),
            torchcache_enabled: true,
            torchcache_persistent: true,
            torchcache_persistent_cache_dir: directory.to_owned(),
            torchcache_verify: 0.0,
            torchcache: TorchCache::default(),
        };
        Outer {
            inner,
            wrapped: wrap(&weight, &wrapped_runs, wrapped, directory),
            wrapped_weight: weight,
            wrapped_runs,
            strided,
            offset: root.randn_standard("offset", &[WIDTH]),
            runs: Runs::default(),
            torchcache_enabled: true,
            torchcache_persistent: true,
            torchcache_persistent_cache_dir: directory.to_owned(),
            torchcache_verify: 0.0,
            torchcache: TorchCache::default(),
        }
    }

    /// The output without a cache.
    pub(super) fn plain(&self, xs: &Tensor, train: bool) -> Tensor {
        let wrapped = self.wrapped.module().forward_t(xs, train);
        self.combine(xs, &self.inner.plain(xs, train), &wrapped)
    }

    /// The output in training, without a cache and without a change of the statistics.
    pub(super) fn in_training(&self, xs: &Tensor) -> Tensor {
        let wrapped = self.wrapped.module().forward_t(xs, true);
        self.combine(xs, &self.inner.in_training(xs), &wrapped)
    }

    fn combine(&self, xs: &Tensor, inner: &Tensor, wrapped: &Tensor) -> Tensor {
        let rows = self.strided.index_select(0, &numbers(xs));
        inner + wrapped * rows + &self.offset
    }

    /// Every weight and statistic.
    pub(super) fn tensors(&self) -> [&Tensor; 9] {
        let Inner {
            table, norm, scale, ..
        } = &self.inner;
        let affine = [&norm.ws, &norm.bs].map(|it| it.as_ref().expect("an affine norm"));
        [
            &table.ws,
            &self.strided,
            scale,
            &norm.running_mean,
            &norm.running_var,
            affine[0],
            affine[1],
            &self.offset,
            &self.wrapped_weight,
        ]
    }

    /// The fields that hold them, but for the wrapped module's.
    pub(super) fn fields(&mut self) -> [&mut Tensor; 8] {
        let Inner {
            table, norm, scale, ..
        } = &mut self.inner;
        let affine = [&mut norm.ws, &mut norm.bs].map(|it| it.as_mut().expect("an affine norm"));
        let [ws, bs] = affine;
        let (mean, var) = (&mut norm.running_mean, &mut norm.running_var);
        let (strided, offset) = (&mut self.strided, &mut self.offset);
        [&mut table.ws, strided, scale, mean, var, ws, bs, offset]
    }

    /// Writes every weight and statistic to a file.
    pub(super) fn save(&self, path: &Path) {
        let tensors = self.tensors().into_iter().enumerate();
        let named: Vec<_> = tensors
            .map(|(number, tensor)| (number.to_string(), tensor.detach()))
            .collect();
        Tensor::save_multi(&named, path).expect("the weights are saved");
    }

    /// Reads every weight and statistic from a file, in place.
    pub(super) fn load(&self, path: &Path) {
        let tensors = self.tensors();
        for (number, saved) in Tensor::load_multi(path).expect("the weights are loaded") {
            let number: usize = number.parse().expect("the number of a tensor");
            tch::no_grad(|| tensors[number].shallow_clone().copy_(&saved));
        }
    }
}

/// Every wrapped module is made in one place, so that equal ones share rows.
fn wrap(weight: &Tensor, runs: &Runs, vs: &nn::VarStore, directory: &Path) -> Wrapped {
    let (weight, runs) = (weight.shallow_clone(), runs.clone());
    let net = nn::func_t(move |xs, _| {
        runs.note(xs);
        (xs.to_kind(weight.kind()) / ROWS) * &weight
    });
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir(directory.to_owned())
        .version("1");
    let options = options.build().expect("valid options");
    Cached::shared(net, vs, options).expect("one place wraps it")
}
