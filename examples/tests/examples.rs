//! Runs every example as its users do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The built example, next to the folder of this test's executable.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a running test has an executable");
    let profile = test.parent().and_then(Path::parent);
    let path = profile
        .expect("target/<profile>/deps")
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo build --examples`",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .env_remove("TORCHCACHE_DISABLE")
        .env_remove("TORCHCACHE_DIR");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("examples print text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The output of an example that succeeds.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the example starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        stdout(&output),
        stderr(&output)
    );
    stdout(&output)
}

/// The cells of the last line that begins with `name`.
fn cells(table: &str, name: &str) -> Vec<String> {
    let line = table.lines().rev().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no line {name} in\n{table}"));
    line[name.len()..]
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[test]
fn readme_computes_each_row_once_over_two_runs() {
    let directory = tempfile::tempdir().unwrap();
    let run = || succeeds(example("readme").current_dir(directory.path()));
    let first = run();
    assert_eq!(cells(&first, "  computed"), ["256", "50.0", "%"], "{first}");
    assert_eq!(cells(&first, "  memory"), ["256", "50.0", "%"], "{first}");
    let second = run();
    assert_eq!(cells(&second, "  computed")[0], "0", "{second}");
    assert_eq!(cells(&second, "  disk")[0], "256", "{second}");
}

#[test]
fn prefill_computes_each_row_once_and_draws_no_bar_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        let output = example("prefill").current_dir(directory.path()).output();
        let output = output.expect("the example starts");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            stderr(&output)
        );
        stdout(&output)
    };
    assert_eq!(run(), "256 rows: 256 computed, 0 found; 256 rows on disk\n");
    assert_eq!(run(), "256 rows: 0 computed, 256 found; 256 rows on disk\n");
}

#[test]
fn import_finds_every_row_of_the_files() {
    let output = succeeds(&mut example("import"));
    assert!(
        output.contains("ids 0 to 399: 398 rows imported, 2 present"),
        "{output}"
    );
    assert!(
        output.contains("ids 956 to 998: 43 rows imported, 0 present"),
        "{output}"
    );
    assert!(
        output.ends_with("999 rows found on disk, 0 computed\n"),
        "{output}"
    );
}

#[test]
fn quickstart_computes_each_row_once_each_way() {
    let output = succeeds(&mut example("quickstart"));
    let count = |text: &str| output.matches(text).count();
    assert_eq!(count("Backbone::forward computes 6 rows"), 1, "{output}");
    assert_eq!(count("Backbone::forward computes 3 rows"), 1, "{output}");
    assert_eq!(
        count("embed computes 4 rows"),
        2,
        "once per scale: {output}"
    );
    assert!(
        output.contains("6 rows computed, 6 from memory"),
        "{output}"
    );
    assert!(output.contains("saved "), "{output}");
}

#[test]
fn overrides_gives_each_instance_its_options() {
    let output = succeeds(&mut example("overrides"));
    let lines: Vec<_> = output.lines().collect();
    let [left, right, off] = lines[..] else {
        panic!("{output}");
    };
    assert!(
        left.contains("enabled true, memory bound 100000000, stored as None"),
        "{left}"
    );
    assert!(
        right.contains("memory bound 2000000, stored as Some(Half)"),
        "{right}"
    );
    assert!(off.contains("enabled false"), "{off}");
    for line in lines {
        assert!(line.ends_with("10 computed, 10 from memory"), "{line}");
    }
}

#[test]
fn torchscript_is_cached_both_ways() {
    let output = succeeds(&mut example("torchscript"));
    assert_eq!(output.matches("20 rows computed").count(), 2, "{output}");
}

#[test]
fn invalidation_logs_the_change_and_finds_old_rows() {
    let output = succeeds(&mut example("invalidation"));
    let reason = "the weights of `fc.ws` changed; fields and options did not";
    assert!(output.contains(reason), "{output}");
    for line in [
        "a new cache: 10 rows computed, 0 hits",
        "the same rows: 0 rows computed, 10 hits",
        "an edited weight: 10 rows computed, 0 hits",
        "the old weight: 0 rows computed, 10 hits",
    ] {
        assert!(output.contains(line), "{output}");
    }
}

/// On the CPU, unless there is a GPU.
#[test]
fn cuda_computes_each_image_once() {
    let output = succeeds(&mut example("cuda"));
    let is_on_cpu = output.contains("no CUDA device: on the CPU");
    assert_ne!(is_on_cpu, tch::Cuda::is_available(), "{output}");
    let rows = |name: &str| cells(&output, name)[0].parse::<u64>().unwrap();
    let images = rows("rows") / 3;
    assert!(output.contains(&format!("{images} images of ")), "{output}");
    // An image may be twice in the data.
    assert!(rows("  computed") <= images, "{output}");
    assert!(rows("  memory") >= 2 * images, "{output}");
}

#[test]
fn transfer_learning_computes_each_image_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        let mut demo = example("transfer_learning");
        let demo = demo.args(["--quick", "--cache-dir"]).arg(directory.path());
        succeeds(demo)
    };
    let output = run();
    assert_eq!(cells(&output, "computed"), ["-", "120", "0"], "{output}");
    assert_eq!(cells(&output, "from disk"), ["-", "0", "120"], "{output}");
    assert_eq!(cells(&output, "from memory"), ["-", "96", "96"], "{output}");
    assert!(!output.contains("FAIL"), "{output}");
    assert!(
        output.contains("faster with the cache (expected 20 x)"),
        "{output}"
    );
    let output = run();
    assert_eq!(cells(&output, "computed"), ["-", "0", "0"], "{output}");
}

#[test]
fn transfer_learning_reads_weights_and_mnist_files() {
    let directory = tempfile::tempdir().unwrap();
    write_mnist(directory.path(), "train", 0..24);
    write_mnist(directory.path(), "t10k", 24..32);
    let weights = directory.path().join("resnet18.safetensors");
    let vs = tch::nn::VarStore::new(tch::Device::Cpu);
    let _resnet = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    vs.save(&weights).unwrap();

    let mut demo = example("transfer_learning");
    demo.arg("--quick").arg("--data").arg(directory.path());
    let output = succeeds(demo.arg("--weights").arg(&weights));
    assert!(
        output.contains("24 images to train on and 8 to test on"),
        "{output}"
    );
    assert!(
        output.contains(&format!("the weights of {}", weights.display())),
        "{output}"
    );
    assert_eq!(cells(&output, "computed"), ["-", "32", "0"], "{output}");
}

/// 28 x 28 images that all differ, uncompressed, as in an unpacked MNIST.
fn write_mnist(directory: &Path, set: &str, images: std::ops::Range<u32>) {
    let write = |name: &str, shape: &[u32], data: Vec<u8>| {
        let mut file = std::fs::File::create(directory.join(name)).unwrap();
        file.write_all(&[0, 0, 8, shape.len() as u8]).unwrap();
        for extent in shape {
            file.write_all(&extent.to_be_bytes()).unwrap();
        }
        file.write_all(&data).unwrap();
    };
    let count = images.len() as u32;
    let pixels = images.start * 784..images.end * 784;
    let pixels = pixels.map(|pixel| (pixel * 31 % 251) as u8);
    let name = format!("{set}-images-idx3-ubyte");
    write(&name, &[count, 28, 28], pixels.collect());
    let labels = images.map(|image| (image % 10) as u8);
    write(
        &format!("{set}-labels-idx1-ubyte"),
        &[count],
        labels.collect(),
    );
}

/// The example on its first definitions, with its embeddings in a folder.
fn semantic_search(texts: &str, cache: &Path) -> Command {
    let mut search = example("semantic_search");
    search.args(["--texts", texts, "--cache-dir"]).arg(cache);
    search
}

/// The folder of the model, which `cargo xtask minilm` fetches.
fn minilm() -> PathBuf {
    let named = std::env::var_os("TORCHCACHE_MINILM").filter(|folder| !folder.is_empty());
    let put = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/minilm/0.1.0");
    named.map_or_else(put, PathBuf::from)
}

#[test]
fn semantic_search_computes_each_text_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = |query: &str| succeeds(semantic_search("300", directory.path()).arg(query));
    /// From memory, from disk, computed, the share of hits.
    fn counts(table: &str, pass: &str) -> [String; 4] {
        let cells = cells(table, pass);
        cells[4..8].to_vec().try_into().unwrap()
    }
    let output = run("a physician");
    for (pass, expected) in [
        ("with the cache", ["0", "0", "300", "0.0"]),
        ("again", ["300", "0", "0", "100.0"]),
        ("1 % changed", ["297", "0", "3", "99.0"]),
        ("a second process", ["0", "300", "0", "100.0"]),
    ] {
        assert_eq!(counts(&output, pass), expected, "{pass}: {output}");
    }
    assert!(!output.contains("FAIL"), "{output}");
    let compared = "ok   64 texts against sentence-transformers: largest difference ";
    let (_, difference) = output.split_once(compared).expect("it is compared");
    let difference: f64 = difference.split(' ').next().unwrap().parse().unwrap();
    assert!(difference <= 1e-4, "{output}");

    // The same program again: the rows of the first run are on disk.
    let output = run("a place where a person can live");
    for (pass, expected) in [
        ("with the cache", ["0", "300", "0", "100.0"]),
        ("again", ["300", "0", "0", "100.0"]),
        ("1 % changed", ["297", "3", "0", "100.0"]),
        ("a second process", ["0", "300", "0", "100.0"]),
    ] {
        assert_eq!(counts(&output, pass), expected, "{pass}: {output}");
    }
    let (_, answers) = output
        .split_once("\na place where a person can live\n")
        .unwrap();
    assert_eq!(answers.lines().count(), 3, "{output}");
}

#[test]
fn semantic_search_fails_on_wrong_embeddings() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(minilm().join(file), model.join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}: `cargo xtask minilm` fetches it"));
    }
    let mut weights = tch::Tensor::read_safetensors(minilm().join("model.safetensors")).unwrap();
    for (name, tensor) in &mut weights {
        if name == "embeddings.LayerNorm.bias" {
            *tensor = &*tensor + 0.01;
        }
    }
    let file = model.join("model.safetensors");
    tch::Tensor::write_safetensors(&weights, &file).unwrap();
    let run = || {
        let mut search = semantic_search("100", &directory.path().join("cache"));
        search.arg("--model").arg(&model).output().unwrap()
    };
    let output = run();
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failed = "FAIL 64 texts against sentence-transformers";
    assert!(
        said.contains(failed) && said.matches("FAIL").count() == 1,
        "{said}"
    );

    weights.retain(|(name, _)| name != "embeddings.LayerNorm.bias");
    tch::Tensor::write_safetensors(&weights, &file).unwrap();
    let said = stderr(&run());
    assert!(
        said.contains("no embeddings.LayerNorm.bias in it"),
        "{said}"
    );
}

#[test]
fn invalid_arguments_are_named() {
    for (name, arguments, code, message) in [
        (
            "transfer_learning",
            &["--epochs", "1"][..],
            2,
            "invalid value '1' for '--epochs <N>'",
        ),
        (
            "transfer_learning",
            &["--data", "no-such-folder"],
            1,
            "cannot read no-such-folder",
        ),
        (
            "transfer_learning",
            &["--quick", "--weights", "no-such-file.ot"],
            1,
            "no-such-file.ot",
        ),
        (
            "semantic_search",
            &["--texts", "99"],
            2,
            "invalid value '99' for '--texts <N>'",
        ),
        (
            "semantic_search",
            &["--model", "no-such-folder"],
            1,
            "no model in no-such-folder (no config.json): `cargo xtask minilm` fetches it",
        ),
    ] {
        let output = example(name).args(arguments).output().unwrap();
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
}

#[test]
fn inference_server_computes_each_text_once() {
    let table = succeeds(&mut example("inference_server"));
    let computed = |name: &str| cells(&table, name)[1].parse::<u32>().unwrap();
    let distinct = format!(" {} different texts", computed("on"));
    assert!(table.contains(&distinct), "{table}");
    assert!(computed("off") >= computed("on"), "{table}");
}
