//! `Cached`, the wrapper for modules that cannot be annotated.

use std::path::Path;
use std::process::Command;

use tch::nn::{Module, ModuleT};
use tch::{Tensor, nn};
use torchcache::{Cached, Error, ErrorKind, Options, TorchCache, Weights, torchcache};

use crate::multi_process::{program, succeed};
use crate::support::{assert_panics, counts, device, events, logged, random, same, version};
use crate::torchscript::traced;

/// Calls a module that doubles and one that triples, twice each: both are right, and each hits only
/// its own rows.
fn assert_apart<M: ModuleT>(two: &Cached<M>, three: &Cached<M>) {
    let xs = random(&[2, 2]);
    for _ in 0..2 {
        assert!(same(&two.forward(&xs), &(&xs * 2.0)));
        assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    }
    assert_ne!(two.cache().module_hash(), three.cache().module_hash());
    assert_eq!(counts(two.cache()), (2, 2, 0));
    assert_eq!(counts(three.cache()), (2, 2, 0));
}

fn resnet() -> (nn::VarStore, Cached<nn::FuncT<'static>>) {
    let mut vs = nn::VarStore::new(device());
    let net = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let net = Cached::new(net, &vs, Options::default()).unwrap();
    (vs, net)
}

#[test]
fn a_vision_model_is_cached_and_its_weights_are_watched() {
    let (vs, net) = resnet();
    let xs = random(&[3, 3, 32, 32]);
    let ys = net.forward(&xs);
    assert_eq!(ys.size(), [3, 512]);
    assert!(same(&net.forward_t(&xs, false), &ys));
    assert_eq!(counts(net.cache()), (3, 3, 0));
    let _ = vs.variables()["conv1.weight"]
        .shallow_clone()
        .g_mul_scalar_(2.0);
    assert!(!same(&net.forward(&xs), &ys));
    net.forward_t(&xs, true);
    assert_eq!(counts(net.cache()), (6, 3, 0));
    assert_eq!(net.cache().stats().bypassed, 1, "training");
}

#[test]
fn closures_made_in_different_places_do_not_share() {
    let two = Cached::new(nn::func(|xs| xs * 2), (), Options::default()).unwrap();
    let three = Cached::new(nn::func(|xs| xs * 3), (), Options::default()).unwrap();
    assert_apart(&two, &three);
}

/// `x * 2`, wrapped in this place.
fn here(text: &str) -> Cached<nn::Func<'static>> {
    Cached::new(nn::func(|xs| xs * 2), (), version(text)).unwrap()
}

#[test]
fn two_places_with_one_version_are_refused() {
    let two = here("both");
    let xs = random(&[2, 2]);
    assert!(same(&two.forward(&xs), &(&xs * 2)));
    // They differ only in their place in the source.
    let line = line!() + 1;
    let there = |text| Cached::new(nn::func(|xs| xs * 3), (), version(text));
    let error = there("both").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AmbiguousIdentity);
    let message = error.to_string();
    for words in [
        "have the same identity",
        "give them different versions",
        &format!("{}:{line}:", file!()),
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(message.matches(file!()).count(), 2, "both: {message}");
    assert!(
        same(&two.forward(&xs), &(&xs * 2)),
        "the first one still works"
    );
    let three = there("its own").unwrap();
    assert!(same(&three.forward(&xs), &(&xs * 3)));
}

#[test]
fn two_places_with_equal_weights_later_fail_at_the_call() {
    let linear = |vs: &nn::VarStore| nn::linear(vs.root(), 3, 2, Default::default());
    let (mut one, mut two) = (nn::VarStore::new(device()), nn::VarStore::new(device()));
    let options = || version("to be the same");
    let (first, second) = (linear(&one), linear(&two));
    one.freeze();
    two.freeze();
    let first = Cached::new(first, &one, options()).unwrap();
    let second = Cached::new(second, &two, options()).unwrap();
    let xs = random(&[2, 3]);
    first.forward(&xs);
    second.forward(&xs);
    two.copy(&one).unwrap();
    assert_panics(&["have the same identity"], || second.forward(&xs));
}

#[test]
fn without_a_version_wrappers_of_one_place_do_not_share() {
    let [two, three] = [2.0, 3.0].map(|factor| {
        Cached::new(nn::func(move |xs| xs * factor), (), Options::default()).unwrap()
    });
    assert_apart(&two, &three);
}

#[test]
fn shared_wrappers_of_one_place_and_version_share_rows() {
    let xs = random(&[2, 2]);
    let shared = || Cached::shared(nn::func(|xs| xs * 2), (), version("one place")).unwrap();
    let (first, second) = (shared(), shared());
    assert!(same(&first.forward(&xs), &(&xs * 2)));
    assert!(same(&second.forward(&xs), &(&xs * 2)));
    assert_eq!(first.cache().module_hash(), second.cache().module_hash());
    assert_eq!(counts(second.cache()), (0, 2, 0));
}

#[test]
fn eval_returns_an_nn_module() {
    let mut vs = nn::VarStore::new(device());
    let linear = nn::linear(vs.root(), 3, 2, Default::default());
    vs.freeze();
    let expected =
        |xs: &Tensor| (xs * 2).linear(&vs.variables()["weight"], Some(&vs.variables()["bias"]));
    let cached = Cached::new(linear, &vs, Options::default()).unwrap().eval();
    let xs = random(&[4, 3]);
    let ys = (&xs * 2).apply(&cached);
    assert!(same(&ys, &expected(&xs)));
    assert!(same(&cached.forward(&(&xs * 2)), &ys));
    assert_eq!(counts(cached.cache()), (4, 4, 0));
    let net = nn::seq().add_fn(|xs| xs * 2).add(cached);
    assert!(same(&xs.apply(&net), &ys));
}

#[test]
fn a_torchscript_file_identifies_its_module() {
    let directory = tempfile::tempdir().unwrap();
    let build = |factor: f64, name: &str| {
        let path = directory.path().join(name);
        Cached::new(traced(factor, &path), &path, version("1")).unwrap()
    };
    assert_apart(&build(2.0, "two.pt"), &build(3.0, "three.pt"));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let missing = std::path::Path::new("no/such/file.pt");
    let error =
        Cached::new(nn::func(Tensor::shallow_clone), missing, Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
    assert!(error.to_string().contains("no/such/file.pt"), "{error}");
}

/// `x * factor`, wrapped in this place.
fn scaled(factor: f64, options: Options) -> Result<Cached<nn::Func<'static>>, Error> {
    Cached::new(nn::func(move |xs| xs * factor), (), options)
}

#[test]
fn with_a_version_wrappers_of_one_place_do_not_share() {
    let [two, three] = [2.0, 3.0].map(|factor| scaled(factor, version("a loop")).unwrap());
    assert_apart(&two, &three);
    // In other threads, where both may be made at once.
    let outputs = std::thread::scope(|scope| {
        [5.0, 7.0]
            .map(|factor| {
                scope.spawn(move || {
                    let net = scaled(factor, version("threads")).unwrap();
                    let xs = Tensor::from_slice(&[1.0f32, 2.0]).to_device(device());
                    [net.forward(&xs), net.forward(&xs)].map(|ys| same(&ys, &(&xs * factor)))
                })
            })
            .map(|thread| thread.join().unwrap())
    });
    assert_eq!(outputs, [[true; 2]; 2]);
}

/// On disk the rows outlive the module that computed them.
#[test]
fn a_second_persistent_wrapper_of_one_identity_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let options = || {
        let options = version("a loop on disk").to_builder().persistent(true);
        options.persistent_cache_dir(root.path()).build().unwrap()
    };
    let xs = random(&[2, 2]);
    let two = scaled(2.0, options()).unwrap();
    assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    two.cache().flush().unwrap();
    drop(two);
    let error = scaled(3.0, options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AmbiguousIdentity);
    for words in ["give them different versions", "Cached::shared", file!()] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let other = tempfile::tempdir().unwrap();
    let elsewhere = options().to_builder().persistent_cache_dir(other.path());
    let three = scaled(3.0, elsewhere.build().unwrap()).unwrap();
    assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    let five = scaled(5.0, version("a loop on disk")).unwrap();
    assert!(same(&five.forward(&xs), &(&xs * 5.0)), "in memory");
}

/// A directory that cannot be used now leaves the rows in memory, apart from those of other caches.
#[cfg(unix)]
#[test]
fn a_wrapper_without_its_directory_has_its_own_rows() {
    let root = tempfile::tempdir().unwrap();
    let cycle = root.path().join("cycle");
    std::os::unix::fs::symlink(&cycle, &cycle).unwrap();
    let on_disk = version("faulty").to_builder().persistent(true);
    let on_disk = on_disk.persistent_cache_dir(&cycle).build().unwrap();
    let two = scaled(2.0, version("faulty")).unwrap();
    let three = scaled(3.0, on_disk).unwrap();
    let xs = random(&[2, 2]);
    for _ in 0..2 {
        assert!(same(&two.forward(&xs), &(&xs * 2.0)));
        assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    }
    assert_eq!(three.cache().stats().faults.open, 1);
    assert_eq!(counts(three.cache()), (2, 2, 0));
}

#[test]
fn persistent_wrappers_with_equal_weights_later_do_not_share() {
    let root = tempfile::tempdir().unwrap();
    let nets = [2.0, 3.0].map(|factor| {
        let vs = nn::VarStore::new(device());
        let weight = vs.root().zeros_no_train("w", &[2]).fill_(factor);
        let options = version("later on disk").to_builder().persistent(true);
        let options = options.persistent_cache_dir(root.path()).build().unwrap();
        let net = Cached::new(nn::func(move |xs| xs * factor), &vs, options).unwrap();
        (net, weight)
    });
    let xs = random(&[2, 2]);
    for weight in [None, Some(7.0), Some(8.0)] {
        for ((net, tensor), factor) in nets.iter().zip([2.0, 3.0]) {
            let mut tensor = tensor.shallow_clone();
            weight.map(|weight: f64| tensor.fill_(weight));
            for _ in 0..2 {
                assert!(
                    same(&net.forward(&xs), &(&xs * factor)),
                    "{weight:?}, {factor}"
                );
            }
        }
    }
    for (net, _) in &nets {
        assert_eq!(counts(net.cache()), (6, 6, 0));
    }
}

/// Holds a `Cached`.
#[torchcache]
#[derive(Debug)]
struct Plus {
    inner: Cached<nn::Func<'static>>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Plus {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }
}

/// The outer module's rows outlive the inner one.
#[test]
fn another_wrapper_in_a_field_is_another_identity() {
    let inner = |factor| scaled(factor, version("in a field")).unwrap();
    let mut outer = Plus {
        inner: inner(2.0),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    assert!(same(&outer.forward(&xs), &(&xs * 2.0 + 1.0)));
    for factor in [3.0, 4.0] {
        outer.inner = inner(factor);
        assert!(same(&outer.forward(&xs), &(&xs * factor + 1.0)), "{factor}");
        assert!(same(&outer.forward(&xs), &(&xs * factor + 1.0)), "{factor}");
    }
    assert_eq!(counts(&outer.torchcache), (6, 4, 0));
}

/// The child under the name `name` in `folder`, with `bytes` after its end.
pub(crate) fn copy_of_child(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, [&std::fs::read(program()).unwrap(), bytes].concat()).unwrap();
    let permissions = std::fs::metadata(program()).unwrap().permissions();
    std::fs::set_permissions(&path, permissions).unwrap();
    path
}

/// Runs `command` with rows in `cache`.
fn run(mut command: Command, cache: &Path, words: &[&str]) -> String {
    command.args(words).env("TORCHCACHE_DIR", cache);
    succeed(command)
}

/// Two programs may have the same source path and version; two checkouts of one program share rows.
#[test]
fn programs_of_one_name_share_rows_of_a_version() {
    let root = tempfile::tempdir().unwrap();
    let one = copy_of_child(&root.path().join("one"), "program", b"");
    let two = copy_of_child(&root.path().join("two"), "program-0123456789abcdef", b"2");
    let other = copy_of_child(&root.path().join("two"), "other", b"");
    let run = |program, factor| {
        run(
            Command::new(program),
            root.path(),
            &["wrapped", "1", factor],
        )
    };
    assert!(run(&one, "2").starts_with("hits 0 misses 10"));
    assert!(run(&other, "3").starts_with("hits 0 misses 10"));
    assert!(run(&one, "2").starts_with("hits 10 misses 0"));
    assert!(
        run(&two, "2").starts_with("hits 10 misses 0"),
        "a checkout, built again"
    );
    assert!(run(&other, "3").starts_with("hits 10 misses 0"));
}

/// Without a version, a rebuild has rows of its own, whatever starts the program.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_rebuilt_program_computes_its_rows_again() {
    let root = tempfile::tempdir().unwrap();
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    assert!(loader.exists(), "{}", loader.display());
    for (number, start) in [None, Some(loader)].into_iter().enumerate() {
        let cache = root.path().join(number.to_string());
        std::fs::create_dir(&cache).unwrap();
        let run = |bytes: &[u8], factor| {
            let program = copy_of_child(&root.path().join("built"), "program", bytes);
            let mut command = Command::new(start.unwrap_or(&program));
            command.args(start.map(|_| &program));
            run(command, &cache, &["wrapped", "", factor])
        };
        assert!(
            run(b"first", "2").starts_with("hits 0 misses 10"),
            "{start:?}"
        );
        assert!(
            run(b"first", "2").starts_with("hits 10 misses 0"),
            "{start:?}"
        );
        assert!(
            run(b"second", "3").starts_with("hits 0 misses 10"),
            "{start:?}"
        );
    }
}

/// The module hash of `xs * 1`, wrapped here with any weights.
fn hash_with(weights: impl Into<Weights>) -> String {
    let net = nn::func(|xs| xs * 1);
    let net = Cached::shared(net, weights, version("sources")).unwrap();
    net.forward(&random(&[1, 2]));
    net.cache().module_hash().unwrap()
}

#[test]
fn all_sources_of_weights_count_in_their_order() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("weights");
    std::fs::write(&file, "a file").unwrap();
    let [one, two] = [1.0, 2.0].map(|value| {
        let mut vs = nn::VarStore::new(device());
        vs.root().var("w", &[2], nn::Init::Const(value));
        vs.freeze();
        vs
    });
    let both = hash_with((&one, &two));
    for (form, hash) in [
        ("a slice", hash_with(&[&one, &two][..])),
        ("an array", hash_with([&one, &two])),
        ("a Vec", hash_with(vec![&one, &two])),
        ("weights", hash_with(Weights::from((&one, &two)))),
        (
            "mixed",
            hash_with(vec![Weights::from(&one), Weights::from(&two)]),
        ),
    ] {
        assert_eq!(hash, both, "{form}");
    }
    let empty = nn::VarStore::new(device());
    let distinct = [
        both,
        hash_with((&two, &one)),
        hash_with(&one),
        hash_with((&one, &one)),
        hash_with((&one, &empty)),
        hash_with((&one, &two, &empty)),
        hash_with((&one, &two, file.as_path())),
        hash_with((&one, &file, &two)),
        hash_with(&file),
        hash_with(()),
    ];
    for (number, hash) in distinct.iter().enumerate() {
        assert!(!distinct[..number].contains(hash), "{number}");
    }
    let owned = [one, two];
    assert_eq!(hash_with(&owned), distinct[0], "stores by value");
    assert_eq!(
        hash_with(&owned.into_iter().collect::<Vec<_>>()),
        distinct[0]
    );
}

#[test]
fn a_closure_over_two_stores_watches_both() {
    let stores = [0, 1].map(|_| nn::VarStore::new(device()));
    let [low, high] = stores
        .each_ref()
        .map(|vs| vs.root().zeros_no_train("w", &[2]));
    let weights = [&low, &high].map(Tensor::shallow_clone);
    let net = nn::func(move |xs| xs + &weights[0] + &weights[1] * 2);
    let net = Cached::new(net, &stores, version("two stores")).unwrap();
    let xs = random(&[3, 2]);
    for (mut changed, sum) in [(low, 1.0), (high, 3.0)] {
        assert!(same(&net.forward(&xs), &net.module().forward(&xs)));
        let _ = changed.fill_(1.0);
        assert!(net.forward(&xs).allclose(&(&xs + sum), 1e-6, 1e-6, false));
    }
    assert_eq!(counts(net.cache()), (9, 3, 0));
}

/// Wrapped in one place, with rows below `root`.
#[cfg(target_os = "linux")]
fn over_file(file: &Path, root: &Path, text: &str) -> Cached<nn::Func<'static>> {
    let options = version(text).to_builder().persistent(true);
    let options = options.persistent_cache_dir(root).build().unwrap();
    Cached::new(nn::func(|xs| xs * 2), file, options).unwrap()
}

/// One that did not change for a minute, which the shell of the system did not.
#[cfg(target_os = "linux")]
#[test]
fn a_file_of_weights_that_stays_is_read_once() {
    let [root, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(root.path(), own).unwrap();
    let shell = Path::new("/bin/sh").canonicalize().unwrap();
    let remembered = || std::fs::read_to_string(root.path().join("weights.txt"));
    let again = "the file did not change";
    let (_first, lines) = logged(|| over_file(&shell, root.path(), "first"));
    assert_eq!(events(&lines, "DEBUG", again), 0, "{lines:#?}");
    assert_eq!(remembered().unwrap().lines().count(), 1);
    let (second, lines) = logged(|| over_file(&shell, root.path(), "second"));
    assert_eq!(events(&lines, "DEBUG", again), 1, "{lines:#?}");
    // It is the digest of the content.
    let read = over_file(&shell, other.path(), "second");
    let xs = random(&[2, 2]);
    second.forward(&xs);
    read.forward(&xs);
    assert_eq!(second.cache().module_hash(), read.cache().module_hash());
    // A copy is another file, and one that was just written is read each time.
    let copy = other.path().join("copy");
    std::fs::copy(&shell, &copy).unwrap();
    let (_copied, lines) = logged(|| over_file(&copy, root.path(), "copied"));
    std::fs::write(&copy, "other weights").unwrap();
    let (changed, more) = logged(|| over_file(&copy, root.path(), "second, changed"));
    assert_eq!(events(&[lines, more].concat(), "DEBUG", again), 0);
    changed.forward(&xs);
    assert_ne!(changed.cache().module_hash(), second.cache().module_hash());
    assert_eq!(remembered().unwrap().lines().count(), 1);
}

#[test]
fn boxes_and_closures_are_wrapped_as_they_are() {
    let mut vs = nn::VarStore::new(device());
    let linear = nn::linear(vs.root(), 2, 2, Default::default());
    let weight = linear.ws.shallow_clone();
    let (seen, dropped) = (
        nn::seq().add(linear),
        nn::seq_t().add_fn_t(|xs, train| xs * if train { 7 } else { 2 }),
    );
    vs.freeze();
    let module: Box<dyn Module> = Box::new(seen);
    let module = Cached::new(module, &vs, version("boxed")).unwrap();
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        let ys = module.module().forward(&xs);
        for _ in 0..2 {
            assert!(same(&module.forward(&xs), &ys));
        }
        let _ = weight.shallow_clone().g_mul_scalar_(2.0);
    }
    assert_eq!(counts(module.cache()), (6, 6, 0));

    let by = 3;
    let closure = Cached::new(|xs: &Tensor| xs * by, (), version("by 3")).unwrap();
    let boxed: Box<dyn ModuleT> = Box::new(dropped);
    let boxed = Cached::shared(boxed, (), Options::default()).unwrap();
    let trained = Cached::new(
        |xs: &Tensor, train| xs * if train { 7 } else { 2 },
        (),
        Options::default(),
    )
    .unwrap();
    for _ in 0..2 {
        assert!(same(&closure.forward(&xs), &(&xs * 3)));
        let forward = [boxed.forward(&xs), trained.forward(&xs)];
        assert!(forward.iter().all(|ys| same(ys, &(&xs * 2))));
        let in_training = [boxed.forward_t(&xs, true), trained.forward_t(&xs, true)];
        assert!(in_training.iter().all(|ys| same(ys, &(&xs * 7))));
    }
    assert_eq!(counts(closure.cache()), (3, 3, 0));
    for cache in [boxed.cache(), trained.cache()] {
        assert_eq!((counts(cache), cache.stats().bypassed), ((3, 3, 0), 2));
    }
    assert_ne!(boxed.cache().module_hash(), trained.cache().module_hash());
}

/// The types do not tell them apart, so the place must.
#[test]
fn boxes_of_different_types_do_not_share() {
    fn boxed(by: i64) -> Box<dyn Module> {
        match by {
            2 => Box::new(nn::func(|xs| xs * 2)),
            _ => Box::new(nn::seq().add_fn(|xs| xs * 3)),
        }
    }
    let xs = random(&[2, 2]);
    let boxes = [2, 3].map(|by| Cached::new(boxed(by), (), version("same")).unwrap());
    let closures =
        [2, 3].map(|by| Cached::new(move |xs: &Tensor| xs * by, (), Options::default()).unwrap());
    for _ in 0..2 {
        for (boxed, by) in boxes.iter().zip([2, 3]) {
            assert!(same(&boxed.forward(&xs), &(&xs * by)));
        }
        for (closure, by) in closures.iter().zip([2, 3]) {
            assert!(same(&closure.forward(&xs), &(&xs * by)));
        }
    }
    for cache in [boxes[1].cache(), closures[1].cache()] {
        assert_eq!(counts(cache), (2, 2, 0));
    }
}
