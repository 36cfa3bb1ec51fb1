//! TorchScript modules: identified by the content of their file, watched between calls.

use std::path::Path;

use tch::nn::Module;
use tch::{CModule, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, device, random, same};

/// A file with `x * factor`, a module without parameters.
pub(crate) fn traced(factor: f64, path: &Path) -> CModule {
    let mut scale = |inputs: &[Tensor]| vec![&inputs[0] * factor];
    let example = random(&[1, 2]);
    let module = CModule::create_by_tracing("M", "forward", &[example], &mut scale).unwrap();
    module.save(path).unwrap();
    CModule::load_on_device(path, device()).unwrap()
}

#[torchcache]
#[derive(Debug)]
struct Script {
    module: CModule,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Script {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        self.module.forward(xs)
    }
}

#[test]
fn torchscript_modules_are_identified_by_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let build = |factor, name| Script {
        module: traced(factor, &directory.path().join(name)),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[4, 2]);
    let two = build(2.0, "two.pt");
    let again = Script {
        module: CModule::load_on_device(directory.path().join("two.pt"), device()).unwrap(),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    };
    assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    assert!(same(&again.forward(&xs), &(&xs * 2.0)));
    assert_eq!(again.ran.take(), (0, 0), "the same file, loaded twice");
    assert!(same(&build(3.0, "three.pt").forward(&xs), &(&xs * 3.0)));
}

#[test]
fn replacing_a_torchscript_module_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut model = Script {
        module: traced(5.0, &path("five.pt")),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    };
    traced(7.0, &path("seven.pt"));
    let xs = random(&[4, 2]);
    assert!(same(&model.forward(&xs), &(&xs * 5.0)));
    let hash = model.torchcache.module_hash();
    model.module = CModule::load_on_device(path("seven.pt"), device()).unwrap();
    assert!(same(&model.forward(&xs), &(&xs * 7.0)));
    assert_ne!(model.torchcache.module_hash(), hash);
    assert_eq!(model.ran.take(), (2, 8));
    model.module = CModule::load_on_device(path("five.pt"), device()).unwrap();
    assert!(same(&model.forward(&xs), &(&xs * 5.0)));
    assert_eq!(model.torchcache.module_hash(), hash);
    assert_eq!(
        model.ran.take(),
        (0, 0),
        "the first file's rows are valid again"
    );
}
