//! Parts of the example `semantic_search` that its runs would not show to be wrong: padding, loading of
//! weights, and the checks of embeddings. They need no model.

#[path = "../semantic_search/bert.rs"]
#[expect(dead_code, reason = "the device is for the example")]
mod bert;
#[path = "../semantic_search/report.rs"]
mod report;
#[path = "../semantic_search/search.rs"]
mod search;
#[path = "../semantic_search/tokens.rs"]
mod tokens;
#[path = "../semantic_search/weights.rs"]
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use bert::{Bert, Config};
use report::{Checks, Pass};
use tch::{Device, Kind, Tensor, nn};
use tokens::{Batch, Tokens};
use torchcache_examples::rows_that_differ;

/// Words are ids from 2, in this order; others are 1.
const TOKENIZER: &str = r#"{
    "version": "1.0", "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
              "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "dog": 3}}
}"#;

fn tokens() -> Tokens {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    fs::write(&file, TOKENIZER).unwrap();
    Tokens::load(&file).unwrap()
}

fn values(tensor: &Tensor) -> Vec<i64> {
    tensor.flatten(0, -1).try_into().unwrap()
}

#[test]
fn a_batch_is_padded_to_its_longest_text() {
    let rows = tokens().rows(&["a dog", "dog", "a a a a"]).unwrap();
    let batch = Batch::new(&rows, &[1, 0], None);
    assert_eq!(batch.ids.size(), [2, 2]);
    assert_eq!(values(&batch.ids), [3, 0, 2, 3]);
    assert_eq!(values(&batch.mask), [1, 0, 1, 1]);
    assert_eq!(values(&batch.places), [1, 0]);
    let batch = Batch::new(&rows, &[0, 2], Some(5));
    assert_eq!(values(&batch.ids), [2, 3, 0, 0, 0, 2, 2, 2, 2, 0]);
}

#[test]
fn long_texts_are_cut() {
    let long = "a ".repeat(400);
    assert_eq!(tokens().rows(&[&long]).unwrap()[0], [2; 256]);
}

#[test]
fn a_tokenizer_with_another_padding_is_rejected() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let other = TOKENIZER.replace("\"[PAD]\": 0, \"[UNK]\": 1", "\"[PAD]\": 1, \"[UNK]\": 0");
    fs::write(file.path(), other).unwrap();
    let error = Tokens::load(file.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the id of [PAD] is Some(1); expected 0"),
        "{error}"
    );
}

#[test]
fn every_row_is_in_one_batch_next_to_those_of_its_length() {
    let texts: Vec<_> = (1..=40).rev().map(|words| "dog ".repeat(words)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let batches = tokens::batches(&tokens().rows(&texts).unwrap(), 7);
    let mut places: Vec<_> = batches
        .iter()
        .flat_map(|batch| values(&batch.places))
        .collect();
    assert!(batches.iter().all(|batch| batch.places.size()[0] <= 7));
    assert_eq!(batches[0].ids.size(), [7, 7]);
    places.sort_unstable();
    assert_eq!(places, (0..40).collect::<Vec<_>>());
}

fn config() -> Config {
    Config {
        model_type: "bert".into(),
        hidden_act: "gelu".into(),
        position_embedding_type: "absolute".into(),
        vocab_size: 10,
        max_position_embeddings: 32,
        type_vocab_size: 2,
        hidden_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 16,
        layer_norm_eps: 1e-12,
    }
}

/// A small BERT with weights that are not zero, and the same each time. Not random: tests run in parallel
/// and share one generator.
fn bert() -> (nn::VarStore, Bert) {
    let vs = nn::VarStore::new(Device::Cpu);
    let bert = Bert::new(&vs.root(), &config());
    let mut variables: Vec<_> = vs.variables().into_iter().collect();
    variables.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (number, (_, variable)) in variables.iter_mut().enumerate() {
        let numbers = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu));
        let irregular = (&numbers * &numbers * 0.37 + number as f64).sin();
        tch::no_grad(|| variable.copy_(&irregular.view(&variable.size()[..])));
    }
    (vs, bert)
}

#[test]
fn padding_does_not_change_the_states_of_a_text() {
    let (_, bert) = bert();
    let padded = |tensor: &Tensor, padding: i64, value: i64| {
        let padding = Tensor::full([1, padding], value, (Kind::Int64, Device::Cpu));
        Tensor::cat(&[tensor, &padding], 1)
    };
    let ids = Tensor::from_slice(&[1i64, 5, 3, 7, 2]).view([1, 5]);
    let states = |padding: i64, looked_at: i64| {
        let mask = padded(&ids.ones_like(), padding, looked_at);
        let states = bert.forward(&padded(&ids, padding, 9), &mask);
        states.narrow(1, 0, 5)
    };
    let plain = states(0, 0);
    assert_eq!(plain.size(), [1, 5, 8]);
    for padding in [3, 11] {
        assert!(report::difference(&states(padding, 0), &plain) < 1e-5);
        assert!(
            report::difference(&states(padding, 1), &plain) > 0.1,
            "it would show"
        );
    }
}

#[test]
fn a_model_of_another_kind_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let good = r#"{"model_type": "bert", "hidden_act": "gelu",
        "position_embedding_type": "absolute", "vocab_size": 10, "max_position_embeddings": 32,
        "type_vocab_size": 2, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "layer_norm_eps": 1e-12}"#;
    for (from, to, message) in [
        (
            "\"bert\"",
            "\"roberta\"",
            "model_type is \"roberta\"; expected \"bert\"",
        ),
        (
            "\"gelu\"",
            "\"relu\"",
            "hidden_act is \"relu\"; expected \"gelu\"",
        ),
        (
            "heads\": 2",
            "heads\": 3",
            "hidden_size 8 cannot be shared by 3",
        ),
        ("\"vocab_size\": 10,", "", "missing field `vocab_size`"),
    ] {
        fs::write(&file, good.replace(from, to)).unwrap();
        let error = format!("{:#}", Config::read(&file).unwrap_err());
        assert!(error.contains(message), "{error}");
        assert!(error.contains("config.json"), "{error}");
    }
    fs::write(&file, good).unwrap();
    assert_eq!(Config::read(&file).unwrap().layer_norm_eps, 1e-12);
}

/// A file with the weights of a small BERT, after `edit`.
fn file(folder: &Path, edit: impl Fn(&mut Vec<(String, Tensor)>)) -> PathBuf {
    let (vs, _) = bert();
    let mut tensors: Vec<_> = vs.variables().into_iter().collect();
    edit(&mut tensors);
    let file = folder.join("model.safetensors");
    Tensor::write_safetensors(&tensors, &file).unwrap();
    file
}

#[test]
fn every_variable_is_filled_and_unused_tensors_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), |tensors| {
        tensors.push(("pooler.dense.bias".into(), Tensor::from_slice(&[1.0f32])));
    });
    let vs = nn::VarStore::new(Device::Cpu);
    let _bert = Bert::new(&vs.root(), &config());
    weights::load(&vs, &file).unwrap();
    let (filled, expected) = (vs.variables(), bert().0.variables());
    assert_eq!(filled.len(), 5 + 2 * 16);
    for (name, tensor) in &filled {
        assert_eq!(tensor, &expected[name], "{name}");
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    type Edit = fn(&mut Vec<(String, Tensor)>);
    const NAME: &str = "encoder.layer.1.output.dense.bias";
    fn replace(tensors: &mut [(String, Tensor)], change: impl Fn(&Tensor) -> Tensor) {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == NAME).unwrap();
        *tensor = change(tensor);
    }
    let cases: [(Edit, &str); 5] = [
        (
            |tensors| tensors.retain(|(name, _)| name != NAME),
            "no encoder.layer.1.output.dense.bias in it",
        ),
        (
            |tensors| replace(tensors, |tensor| tensor.to_kind(Kind::Half)),
            "encoder.layer.1.output.dense.bias is Half [8]; expected Float [8]",
        ),
        (
            // It would be broadcast.
            |tensors| replace(tensors, |tensor| tensor.narrow(0, 0, 1).copy()),
            "encoder.layer.1.output.dense.bias is Float [1]; expected Float [8]",
        ),
        (
            |tensors| tensors.push(("decoder.bias".into(), Tensor::from_slice(&[1.0f32]))),
            "the model has no decoder.bias",
        ),
        (
            |tensors| tensors.clear(),
            "no embeddings.LayerNorm.bias in it (and 36 more that do not fit)",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (edit, message) in cases {
        let file = file(folder.path(), edit);
        let error = format!("{:#}", weights::load(&bert().0, &file).unwrap_err());
        assert!(error.contains(message), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), |_| {});
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = format!("{:#}", weights::load(&bert().0, &file).unwrap_err());
    assert!(error.contains("model.safetensors"), "{error}");
}

fn checks() -> Checks {
    Checks {
        sample: 64,
        agreement: 2e-7,
        first: 1e-7,
        edited: 0.0,
        changed_rows: 0,
    }
}

#[test]
fn an_embedding_that_is_wrong_fails_the_example() {
    assert!(checks().hold());
    for wrong in [1e-3, f64::NAN, f64::INFINITY] {
        let agreement = Checks {
            agreement: wrong,
            ..checks()
        };
        let first = Checks {
            first: wrong,
            ..checks()
        };
        let edited = Checks {
            edited: wrong,
            ..checks()
        };
        for checks in [agreement, first, edited] {
            assert!(!checks.hold(), "{checks}");
            assert_eq!(checks.to_string().matches("FAIL").count(), 1, "{checks}");
        }
    }
    let changed = Checks {
        changed_rows: 1,
        ..checks()
    };
    assert!(!changed.hold() && changed.to_string().contains("1 rows differ"));
}

#[test]
fn matrices_of_different_shapes_never_agree() {
    let zeros = |shape: [i64; 2]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    assert_eq!(
        report::difference(&zeros([4, 3]), &zeros([4, 1])),
        f64::INFINITY
    );
    assert_eq!(rows_that_differ(&zeros([4, 3]), &zeros([1, 3])), 4);
    assert!(report::difference(&zeros([1, 1]), &(zeros([1, 1]) / 0.0)).is_nan());
    assert_eq!(
        rows_that_differ(&zeros([4, 3]), &-zeros([4, 3])),
        4,
        "0.0 and -0.0"
    );
}

#[test]
fn the_table_compares_each_pass_with_the_first() {
    let pass = |name: &str, seconds, from_memory, computed| Pass {
        name: name.into(),
        seconds,
        from_memory,
        from_disk: 0,
        computed,
    };
    let table = report::table(&[pass("plain", 8.0, 0, 200), pass("again", 0.5, 198, 2)]);
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1], ["plain", "8.00", "s", "200"]);
    assert_eq!(
        lines[2],
        [
            "again", "500.0", "ms", "16", "x", "198", "0", "2", "99.0", "%"
        ]
    );
}

#[test]
fn the_nearest_come_first() {
    let embeddings = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8]).view([3, 2]);
    let query = Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2]);
    let places = |count| -> Vec<_> {
        let found = search::nearest(&query, &embeddings, count);
        found.into_iter().map(|(place, _)| place).collect()
    };
    assert_eq!(places(2), [0, 2]);
    assert_eq!(places(9), [0, 2, 1]);
}
