//! TorchScript modules: identified by what they are when they are called, mode, kinds and weights
//! included, and watched between calls.

use std::path::Path;

use tch::nn::Module;
use tch::{CModule, Kind, Tensor, TrainableCModule, nn};
use torchcache::{Cached, ErrorKind, Options, TorchCache, torchcache};

use crate::multi_process::{child, succeed};
use crate::support::{Ran, assert_panics, counts, device, logged, random, same, version, warnings};

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

/// What the class of a TorchScript archive does, and the archive as Python would save it.
struct Source {
    forward: &'static str,
    weight: f32,
    training: bool,
}

/// `x * weight`, negated in train mode.
const MODAL: &str = "
    if self.training:
      _0 = torch.neg(torch.mul(x, self.weight))
    else:
      _0 = torch.mul(x, self.weight)
    return _0
";

/// `x * weight + state`, where each call adds one to the state.
const STATEFUL: &str = "
    state = self.state
    _0 = torch.add(torch.mul(x, self.weight), state)
    _1 = torch.add_(state, 1.)
    return _0
";

impl Source {
    fn modal(weight: f32, training: bool) -> Self {
        Source {
            forward: MODAL,
            weight,
            training,
        }
    }

    fn archive(&self) -> Vec<u8> {
        let code = format!(
            "class M(Module):\n  __parameters__ = [\"weight\", ]\n  __buffers__ = [\"state\", ]\n  \
             weight : Tensor\n  state : Tensor\n  training : bool\n  \
             def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:{}",
            self.forward
        );
        zip(&[
            ("data/0", &self.weight.to_le_bytes()),
            ("data/1", &0f32.to_le_bytes()),
            ("data.pkl", &self.attributes()),
            ("code/__torch__.py", code.as_bytes()),
            ("constants.pkl", b"\x80\x02)."),
            ("version", b"3\n"),
        ])
    }

    /// The pickled attributes.
    fn attributes(&self) -> Vec<u8> {
        let text = |text: &str| {
            let length = (text.len() as u32).to_le_bytes();
            [b"X", &length[..], text.as_bytes()].concat()
        };
        let tensor = |file: &str| {
            let storage = [text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat();
            let storage = [b"(", &storage[..], &text(file), &text("cpu"), b"K\x01tQ"].concat();
            let layout = b"K\x00(K\x01t(K\x01t\x89ccollections\nOrderedDict\n)RtR";
            let rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(";
            [&rebuild[..], &storage, layout].concat()
        };
        [
            b"\x80\x02c__torch__\nM\n)\x81}(".to_vec(),
            text("weight"),
            tensor("0"),
            text("state"),
            tensor("1"),
            text("training"),
            vec![if self.training { 0x88 } else { 0x89 }],
            b"ub.".to_vec(),
        ]
        .concat()
    }

    fn load(&self) -> CModule {
        CModule::load_data_on_device(&mut &self.archive()[..], device()).unwrap()
    }
}

/// An archive of uncompressed files, below one folder.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let name = format!("m/{name}");
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let offset = archive.len() as u32;
        let size = (bytes.len() as u32).to_le_bytes();
        // Version, flags, method and time; checksum, sizes, and the lengths of name and extra field.
        let mut header = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        header.extend(crc.sum().to_le_bytes());
        header.extend([size, size].concat());
        header.extend((name.len() as u32).to_le_bytes());
        archive.extend([b"PK\x03\x04", &header[..], name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02\x14\x00", &header[..], &[0; 10]].concat());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, length) = (archive.len() as u32, directory.len() as u32);
    archive.extend(directory);
    let count = (files.len() as u16).to_le_bytes();
    archive.extend([b"PK\x05\x06\x00\x00\x00\x00", &count[..], &count].concat());
    archive.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    archive.extend([0, 0]);
    archive
}

/// Both are right, twice, and share no rows.
#[track_caller]
fn assert_apart(nets: &[Cached<CModule>]) {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        for net in nets {
            assert!(same(&net.forward(&xs), &net.module().forward(&xs)));
        }
    }
    for net in nets {
        assert_eq!(counts(net.cache()), (3, 3, 0));
    }
}

/// A module wrapped with the path of its file, always in this place.
fn wrapped(module: CModule, path: &Path) -> Cached<CModule> {
    Cached::new(module, path, version("script")).unwrap()
}

#[test]
fn a_script_in_eval_mode_has_its_own_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.pt");
    let source = Source::modal(1.5, true);
    std::fs::write(&path, source.archive()).unwrap();
    let mut eval = source.load();
    eval.set_eval();
    let xs = random(&[1, 2]);
    assert!(same(&eval.forward(&xs), &(&xs * 1.5)));
    assert_apart(&[wrapped(source.load(), &path), wrapped(eval, &path)]);
}

#[test]
fn a_converted_script_has_its_own_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.pt");
    let source = Source::modal(1.1, false);
    std::fs::write(&path, source.archive()).unwrap();
    let nets = [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Double].map(|kind| {
        let mut module = source.load();
        module.to(device(), kind, false);
        wrapped(module, &path)
    });
    assert_apart(&nets);
}

#[test]
fn a_traced_script_without_weights_has_its_own_rows() {
    let directory = tempfile::tempdir().unwrap();
    let nets = [2.0, 3.0].map(|factor| {
        let module = traced(factor, &directory.path().join("m.pt"));
        Cached::new(module, (), version("traced")).unwrap()
    });
    assert_apart(&nets);
}

#[test]
fn an_edited_parameter_of_a_wrapped_script_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.pt");
    let source = Source::modal(1.5, false);
    std::fs::write(&path, source.archive()).unwrap();
    let net = wrapped(source.load(), &path);
    let xs = random(&[3, 2]);
    assert!(same(&net.forward(&xs), &(&xs * 1.5)));
    let (_, mut weight) = net.module().named_parameters().unwrap().remove(0);
    for (factor, misses) in [(2.5, 6), (1.5, 6), (3.5, 9)] {
        let _ = tch::no_grad(|| weight.fill_(factor));
        assert!(same(&net.forward(&xs), &(&xs * factor)));
        assert_eq!(net.cache().stats().misses, misses, "factor {factor}");
    }
}

#[test]
fn a_script_that_requires_grad_is_refused() {
    let module = Source::modal(4.5, false).load();
    let net = Cached::new(module, (), Options::default()).unwrap();
    net.forward(&random(&[3, 2]));
    let (_, weight) = net.module().named_parameters().unwrap().remove(0);
    let _ = weight.set_requires_grad(true);
    assert_panics(&["parameter `weight` requires grad"], || {
        net.forward(&random(&[3, 2]))
    });
}

/// Mode and kind are those of the module, not of the file that it was loaded from.
#[test]
fn processes_share_rows_of_one_mode_and_kind_only() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("m.pt");
    std::fs::write(&path, Source::modal(1.1, true).archive()).unwrap();
    let cache = root.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let run = |mode, kind| {
        let words = ["script", path.to_str().unwrap(), mode, kind];
        succeed(child(Some(&cache), &words))
    };
    for (mode, kind) in [
        ("train", "float"),
        ("eval", "float"),
        ("eval", "half"),
        ("eval", "double"),
    ] {
        let first = run(mode, kind);
        assert!(
            first.starts_with("hits 0 misses 10"),
            "{mode}, {kind}: {first}"
        );
        let again = run(mode, kind);
        assert!(
            again.starts_with("hits 10 misses 0"),
            "{mode}, {kind}: {again}"
        );
    }
}

fn field(module: CModule) -> Script {
    Script {
        module,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// The mode cannot be watched: `refresh` reads it.
#[test]
fn the_mode_of_a_script_field_is_read_after_refresh() {
    let mut model = field(Source::modal(1.5, true).load());
    let xs = random(&[3, 2]);
    assert!(same(&model.forward(&xs), &(&xs * -1.5)));
    model.module.set_eval();
    model.torchcache.refresh();
    assert!(same(&model.forward(&xs), &(&xs * 1.5)));
    model.module.set_train();
    model.torchcache.refresh();
    assert!(same(&model.forward(&xs), &(&xs * -1.5)));
    assert_eq!(
        model.ran.take(),
        (2, 6),
        "the rows of each mode are found again"
    );
}

#[test]
fn a_converted_or_edited_script_field_is_noticed() {
    let mut model = field(Source::modal(1.1, false).load());
    let xs = random(&[3, 2]);
    let check = |model: &Script, what: &str| {
        for _ in 0..2 {
            let expected = model.module.forward(&xs);
            assert!(same(&model.forward(&xs), &expected), "{what}");
        }
        assert_eq!(model.ran.take(), (1, 3), "{what}");
    };
    check(&model, "as loaded");
    for kind in [Kind::Half, Kind::Double] {
        model.module.to(device(), kind, false);
        check(&model, "converted");
    }
    let (_, mut weight) = model.module.named_parameters().unwrap().remove(0);
    let _ = tch::no_grad(|| weight.fill_(7.0));
    check(&model, "edited");
}

#[test]
fn a_script_in_train_mode_is_warned_of_once() {
    let xs = random(&[3, 2]);
    for training in [true, false] {
        let source = Source::modal(1.5, training);
        let ((), lines) = logged(|| {
            let net = Cached::new(source.load(), (), Options::default()).unwrap();
            net.forward(&xs);
            net.forward(&random(&[3, 2]));
        });
        assert_eq!(
            warnings(&lines, "train mode"),
            usize::from(training),
            "{lines:#?}"
        );
        let ((), lines) = logged(|| {
            let model = field(source.load());
            model.forward(&xs);
            model.forward(&random(&[3, 2]));
        });
        assert_eq!(
            warnings(&lines, "train mode"),
            usize::from(training),
            "{lines:#?}"
        );
    }
}

#[test]
fn verify_names_state_as_a_reason() {
    let source = Source {
        forward: STATEFUL,
        weight: 1.0,
        training: false,
    };
    let options = Options::builder().verify(1.0).build().unwrap();
    let net = Cached::new(source.load(), (), options).unwrap();
    let xs = random(&[3, 2]);
    let ((), lines) = logged(|| {
        net.forward(&xs);
        net.forward(&xs);
    });
    assert_eq!(net.cache().stats().mismatched, 3);
    assert_eq!(
        warnings(&lines, "keeps state between calls"),
        1,
        "{lines:#?}"
    );
}

/// The closure borrows the module, whose identity is passed as weights.
#[test]
fn a_closure_over_a_script_knows_and_watches_it() {
    let xs = random(&[3, 2]);
    let modules = [Source::modal(1.5, true), Source::modal(1.5, false)].map(|source| source.load());
    let nets = modules.each_ref().map(|module| {
        let net = nn::func(|xs| module.forward(xs) + 1.0);
        Cached::new(net, module, version("around")).unwrap()
    });
    for _ in 0..2 {
        assert!(same(&nets[0].forward(&xs), &(&xs * -1.5 + 1.0)));
        assert!(same(&nets[1].forward(&xs), &(&xs * 1.5 + 1.0)));
    }
    assert_eq!(counts(nets[1].cache()), (3, 3, 0));
    let (_, mut weight) = modules[1].named_parameters().unwrap().remove(0);
    let _ = tch::no_grad(|| weight.fill_(2.5));
    assert!(same(&nets[1].forward(&xs), &(&xs * 2.5 + 1.0)));
    assert_eq!(counts(nets[1].cache()), (6, 3, 0));
}

#[test]
fn a_trainable_script_is_watched_through_its_store() {
    let source = Source::modal(1.5, false);
    let vs = nn::VarStore::new(device());
    let load = || TrainableCModule::load_data(&mut &source.archive()[..], vs.root()).unwrap();
    let error = Cached::new(load(), (), Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
    assert!(error.to_string().contains("pass that store"), "{error}");
    let vs = nn::VarStore::new(device());
    let module = TrainableCModule::load_data(&mut &source.archive()[..], vs.root()).unwrap();
    let net = Cached::new(module, &vs, version("trainable")).unwrap();
    let xs = random(&[3, 2]);
    for factor in [1.5, 2.5, 1.5] {
        let mut weight = vs.variables().remove("weight").unwrap();
        let _ = tch::no_grad(|| weight.fill_(factor));
        for _ in 0..2 {
            assert!(same(&net.forward_t(&xs, false), &(&xs * factor)));
        }
    }
    assert_eq!(counts(net.cache()), (6, 12, 0));
}

/// A module of the program around a trainable one, and the store that watches its weights, if any.
#[torchcache]
#[derive(Debug)]
struct Trainable<S> {
    script: TrainableCModule,
    store: S,
    cache: TorchCache,
}

#[torchcache]
impl<S: torchcache::Fingerprint + std::fmt::Debug> Trainable<S> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, torchcache::Error> {
        Ok(self.script.forward_ts(&[xs])? + 1)
    }
}

#[test]
fn a_trainable_script_in_a_field_is_watched_through_the_field_of_its_store() {
    let source = Source::modal(1.5, false);
    let load = |vs: &nn::VarStore| {
        TrainableCModule::load_data(&mut &source.archive()[..], vs.root()).unwrap()
    };
    let vs = nn::VarStore::new(device());
    let mut model = Trainable {
        script: load(&vs),
        store: vs,
        cache: TorchCache::default(),
    };
    let xs = random(&[3, 2]);
    for factor in [1.5, 2.5, 1.5] {
        let mut weight = model.store.variables().remove("weight").unwrap();
        let _ = tch::no_grad(|| weight.fill_(factor));
        for _ in 0..2 {
            assert!(same(&model.forward(&xs).unwrap(), &(&xs * factor + 1)));
        }
    }
    assert_eq!(counts(&model.cache), (6, 12, 0));
    // Another one in its place.
    let vs = nn::VarStore::new(device());
    model.script =
        TrainableCModule::load_data(&mut &Source::modal(1.5, true).archive()[..], vs.root())
            .unwrap();
    model.store = vs;
    for _ in 0..2 {
        assert!(same(&model.forward(&xs).unwrap(), &(&xs * -1.5 + 1)));
    }
    assert_eq!(counts(&model.cache), (9, 15, 0));
}

/// Nothing would show that its weights change.
#[test]
fn a_trainable_script_in_a_field_without_its_store_is_an_error() {
    let source = Source::modal(1.5, false);
    let vs = nn::VarStore::new(device());
    let script = TrainableCModule::load_data(&mut &source.archive()[..], vs.root()).unwrap();
    let model = Trainable {
        script,
        store: (),
        cache: TorchCache::default(),
    };
    let error = model.forward(&random(&[3, 2])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
    assert!(
        error.to_string().contains("a field next to the module"),
        "{error}"
    );
}
