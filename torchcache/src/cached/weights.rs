//! [`Weights`]: what identifies the weights of a wrapped module.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tch::{CModule, Tensor, TrainableCModule, nn};

use super::files;
use crate::error::Detail;
use crate::identity::torchscript::Archive;
use crate::identity::{Fingerprint, Fingerprinter, tch_types};
use crate::sync::lock;

/// The weights of a wrapped module, which are part of its module hash.
///
/// | made from | identified by |
/// | --- | --- |
/// | `()` | nothing: the module has none |
/// | `&VarStore` | its variables, watched at every call |
/// | the path of a file | its content when the module is wrapped |
/// | `&CModule` | the module as it is then: code, mode, kinds, weights and buffers; its parameters are watched |
/// | `&TrainableCModule` | the same, without watching: pass its `VarStore` as well |
/// | a tuple, array, `Vec` or slice of these | all of them, in their order |
///
/// ```
/// use tch::{Device, nn};
/// use torchcache::{Cached, Options};
///
/// let (mut low, mut high) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
/// let first = nn::linear(low.root(), 8, 4, Default::default());
/// let second = nn::linear(high.root(), 4, 2, Default::default());
/// low.freeze();
/// high.freeze();
/// let net = nn::func(move |xs| xs.apply(&first).relu().apply(&second));
/// let net = Cached::new(net, (&low, &high), Options::default())?;
/// # Ok::<(), torchcache::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Weights(Vec<Source>);

#[derive(Debug, Clone)]
enum Source {
    Variables(Arc<Mutex<nn::Variables>>),
    File(PathBuf),
    /// The digest of a file.
    Content([u8; 32]),
    Script(Archive, Parameters),
}

/// The parameters of a TorchScript module.
#[derive(Debug, Clone, Default)]
struct Parameters {
    names: Arc<[String]>,
    /// In a lock, since a `Tensor` is not `Sync`. It is held to clone the handles.
    tensors: Arc<Mutex<Vec<Tensor>>>,
}

impl Weights {
    /// Hashes files now: later writes to them do not change the loaded module. `root`: where their
    /// digests are remembered.
    pub(super) fn load(mut self, root: impl Fn() -> Option<PathBuf>) -> Result<Self, Detail> {
        for source in &mut self.0 {
            if let Source::File(path) = source {
                let content = files::digest(path, root().as_deref());
                let content = content.map_err(|source| Detail::Weights {
                    path: path.clone(),
                    source,
                })?;
                *source = Source::Content(content);
            }
        }
        Ok(self)
    }

    /// Whether a `VarStore` is among them.
    pub(super) fn have_variables(&self) -> bool {
        let mut sources = self.0.iter();
        sources.any(|source| matches!(source, Source::Variables(_)))
    }

    pub(super) fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        if let [source] = &self.0[..] {
            return source.fingerprint(f);
        }
        f.field("sources", &self.0.len());
        for (position, source) in self.0.iter().enumerate() {
            f.element(position, source);
        }
    }
}

impl Fingerprint for Source {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        match self {
            Source::Variables(variables) => tch_types::variables(variables, f),
            Source::File(_) => {}
            Source::Content(digest) => f.field("file", digest),
            Source::Script(archive, parameters) => {
                archive.fingerprint(f);
                let tensors: Vec<Tensor> = {
                    let tensors = lock(&parameters.tensors);
                    tensors.iter().map(Tensor::shallow_clone).collect()
                };
                for (name, tensor) in parameters.names.iter().zip(&tensors) {
                    f.field(name, tensor);
                }
            }
        }
    }
}

impl From<()> for Weights {
    fn from((): ()) -> Self {
        Weights(Vec::new())
    }
}

/// One source of weights, as an element of a slice.
pub trait WeightSource {
    #[doc(hidden)]
    fn weights(&self) -> Weights;
}

macro_rules! sources {
    ($($source:ty: |$value:ident| $weights:expr;)*) => {$(
        impl WeightSource for $source {
            fn weights(&self) -> Weights {
                let $value = self;
                $weights
            }
        }

        impl From<&$source> for Weights {
            fn from(source: &$source) -> Self {
                source.weights()
            }
        }
    )*};
}

sources! {
    nn::VarStore: |vs| Weights(vec![Source::Variables(vs.variables_.clone())]);
    CModule: |module| {
        let parameters = module.named_parameters().unwrap_or_default();
        let (names, tensors): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
        let parameters = Parameters {
            names: names.into(),
            tensors: Arc::new(Mutex::new(tensors)),
        };
        Weights(vec![Source::Script(Archive::of_module(module), parameters)])
    };
    TrainableCModule: |module| {
        Weights(vec![Source::Script(Archive::of_trainable(module), Parameters::default())])
    };
    Path: |path| Weights(vec![Source::File(path.to_owned())]);
    PathBuf: |path| Path::weights(path);
    str: |path| Path::new(path).weights();
    String: |path| Path::new(path).weights();
    Weights: |weights| weights.clone();
}

impl<T: WeightSource + ?Sized> WeightSource for &T {
    fn weights(&self) -> Weights {
        (**self).weights()
    }
}

impl From<PathBuf> for Weights {
    fn from(path: PathBuf) -> Self {
        path.weights()
    }
}

impl From<String> for Weights {
    fn from(path: String) -> Self {
        path.weights()
    }
}

fn all(sources: impl Iterator<Item = Weights>) -> Weights {
    Weights(sources.flat_map(|weights| weights.0).collect())
}

macro_rules! slices {
    ($($slice:ty $(, $length:ident)?;)*) => {$(
        impl<T: WeightSource $(, const $length: usize)?> From<&$slice> for Weights {
            fn from(sources: &$slice) -> Self {
                all(sources.iter().map(T::weights))
            }
        }
    )*};
}

slices! {
    [T];
    [T; N], N;
    Vec<T>;
}

impl<T: Into<Weights>> From<Vec<T>> for Weights {
    fn from(sources: Vec<T>) -> Self {
        all(sources.into_iter().map(T::into))
    }
}

impl<T: Into<Weights>, const N: usize> From<[T; N]> for Weights {
    fn from(sources: [T; N]) -> Self {
        all(sources.into_iter().map(T::into))
    }
}

macro_rules! tuples {
    ($(($($source:ident)+))*) => {$(
        impl<$($source: Into<Weights>),+> From<($($source,)+)> for Weights {
            #[expect(non_snake_case, reason = "the names of the types name the values")]
            fn from(($($source,)+): ($($source,)+)) -> Self {
                all([$($source.into()),+].into_iter())
            }
        }
    )*};
}

tuples! {
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
}
