//! Outputs with plain values, enums, maps and recurrent states: the same from the forward, from memory and from disk.

use std::collections::{BTreeMap, HashMap};

use tch::{Kind, Tensor, nn};
use torchcache::{Batched, TorchCache, torchcache};

use crate::support::{Ran, counts, logged, random, same, warnings};

#[derive(Batched, Debug)]
enum Encoded {
    Pooled(Tensor),
    Tokens {
        hidden: Tensor,
        mask: Option<Tensor>,
        #[batched(constant)]
        heads: usize,
    },
    Named(HashMap<String, (Tensor, Tensor)>, BTreeMap<i64, Tensor>),
    Recurrent(nn::LSTMState, [nn::GRUState; 1], Activation),
}

#[derive(Batched, Clone, Copy, Debug, PartialEq)]
enum Activation {
    Relu,
    Tanh,
}

#[derive(Batched, Debug)]
struct Output {
    encoded: Encoded,
    #[batched(constant)]
    settings: (String, Option<f64>, Vec<bool>),
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Encoder {
    #[torchcache(skip)]
    ran: Ran,
    torchcache_persistent_cache_dir: String,
    cache: TorchCache,
}

#[torchcache]
impl Encoder {
    fn forward(&self, xs: &Tensor, form: &str) -> Output {
        self.ran.note(xs);
        let encoded = match form {
            "pooled" => Encoded::Pooled(xs.sum_dim_intlist(1, false, None)),
            "tokens" => Encoded::Tokens {
                hidden: xs.unsqueeze(2) * 2,
                mask: Some(xs.gt(0.0)),
                heads: 12,
            },
            "unmasked" => Encoded::Tokens {
                hidden: xs * 2,
                mask: None,
                heads: 7,
            },
            "named" => Encoded::Named(
                ["logits", "a", "größe"]
                    .map(|name| (name.to_owned(), (xs + name.len() as f64, xs * 3)))
                    .into(),
                [(-5, xs * -5), (i64::MAX, xs * 7)].into(),
            ),
            form => {
                // `[layers, batch, size]`.
                let layers = Tensor::stack(&[xs * 2, xs * 3], 0);
                let activation = match form {
                    "tanh" => Activation::Tanh,
                    _ => Activation::Relu,
                };
                Encoded::Recurrent(
                    nn::LSTMState((&layers + 1, &layers + 2)),
                    [nn::GRUState(
                        layers.transpose(1, 2).contiguous().transpose(1, 2),
                    )],
                    activation,
                )
            }
        };
        Output {
            encoded,
            settings: (
                format!("{form} of rows"),
                (form == "pooled").then_some(-0.0),
                vec![true; form.len()],
            ),
        }
    }
}

fn check(output: &Output, xs: &Tensor, form: &str) {
    let (name, number, flags) = &output.settings;
    assert_eq!(
        (name.as_str(), flags.len()),
        (&*format!("{form} of rows"), form.len())
    );
    assert_eq!(
        number.map(f64::to_bits),
        (form == "pooled").then_some((-0.0f64).to_bits())
    );
    match &output.encoded {
        Encoded::Pooled(pooled) => assert!(same(pooled, &xs.sum_dim_intlist(1, false, None))),
        Encoded::Tokens {
            hidden,
            mask,
            heads,
        } if form == "tokens" => {
            assert!(
                same(hidden, &(xs.unsqueeze(2) * 2)) && same(mask.as_ref().unwrap(), &xs.gt(0.0))
            );
            assert_eq!(*heads, 12);
        }
        Encoded::Tokens {
            hidden,
            mask,
            heads,
        } => {
            assert!(same(hidden, &(xs * 2)) && mask.is_none());
            assert_eq!((*heads, form), (7, "unmasked"));
        }
        Encoded::Named(texts, numbers) => {
            assert_eq!((texts.len(), numbers.len()), (3, 2));
            for (name, (first, second)) in texts {
                assert!(same(first, &(xs + name.len() as f64)) && same(second, &(xs * 3)));
            }
            assert!(same(&numbers[&-5], &(xs * -5)) && same(&numbers[&i64::MAX], &(xs * 7)));
        }
        Encoded::Recurrent(lstm, [gru], activation) => {
            let layers = Tensor::stack(&[xs * 2, xs * 3], 0);
            assert!(same(&lstm.h(), &(&layers + 1)) && same(&lstm.c(), &(&layers + 2)));
            assert!(same(&gru.0, &layers));
            assert!(gru.0.is_contiguous() && lstm.c().is_contiguous());
            assert_eq!(*activation == Activation::Tanh, form == "tanh");
        }
    }
}

#[test]
fn outputs_of_every_form_return_from_memory_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = || Encoder {
        ran: Ran::default(),
        torchcache_persistent_cache_dir: dir.path().to_str().unwrap().to_owned(),
        cache: TorchCache::default(),
    };
    let xs = random(&[5, 3]);
    let forms = ["pooled", "tokens", "unmasked", "named", "relu", "tanh"];
    let model = encoder();
    for form in forms {
        check(&model.forward(&xs, form), &xs, form);
        assert_eq!(model.ran.take(), (1, 5));
        let mixed = Tensor::cat(&[&xs.narrow(0, 2, 3), &random(&[1, 3])], 0);
        check(&model.forward(&mixed, form), &mixed, form);
        assert_eq!(model.ran.take(), (1, 1), "{form}");
        check(
            &model.forward(&mixed.narrow(0, 3, 1), form),
            &mixed.narrow(0, 3, 1),
            form,
        );
        assert_eq!(model.ran.take(), (0, 0), "{form}");
    }
    model.cache.flush().unwrap();
    drop(model);
    let model = encoder();
    for form in forms {
        check(&model.forward(&xs, form), &xs, form);
    }
    assert_eq!(
        (model.ran.take(), model.cache.stats().disk.hits),
        ((0, 0), 30)
    );
}

#[derive(Batched)]
struct Counted {
    rows: Tensor,
    #[batched(constant)]
    count: i64,
}

/// Its constant depends on the batch, which none should do.
#[torchcache(verify = 1.0)]
fn counted(xs: &Tensor) -> Counted {
    Counted {
        rows: xs * 2,
        count: xs.size()[0],
    }
}

#[test]
fn rows_of_different_constants_are_not_joined() {
    let xs = random(&[4, 2]);
    assert_eq!(counted(&xs.narrow(0, 0, 3)).count, 3);
    let (whole, lines) = logged(|| counted(&xs));
    assert_eq!(whole.count, 4, "not that of its three known rows");
    assert!(same(&whole.rows, &(&xs * 2)));
    assert_eq!(counted_cache().stats().bypassed, 1);
    assert_eq!(
        warnings(&lines, "a plain value, key or variant"),
        1,
        "{lines:?}"
    );
    // Known rows alone are hits with the constant of their batch, and `verify` finds that.
    let (two, lines) = logged(|| counted(&xs.narrow(0, 1, 2)));
    assert_eq!(two.count, 3);
    assert_eq!(counted_cache().stats().mismatched, 2);
    assert_eq!(warnings(&lines, "differ"), 1, "{lines:?}");
}

/// Keys of a map that depend on the batch are no part of the rows.
#[test]
fn rows_of_different_keys_are_not_joined() {
    #[torchcache]
    fn keyed(xs: &Tensor) -> HashMap<String, Tensor> {
        let is_positive = xs.sum(Kind::Float).double_value(&[]) > 0.0;
        let name = if is_positive { "up" } else { "down" };
        HashMap::from([(name.to_owned(), xs * 2)])
    }
    let (up, down) = (random(&[2, 2]).abs() + 10, random(&[2, 2]).abs() * -1);
    assert!(keyed(&up).contains_key("up"));
    assert!(keyed(&down).contains_key("down"));
    assert!(keyed(&down).contains_key("down"));
    let both = Tensor::cat(&[&up, &down], 0);
    assert!(same(&keyed(&both)["up"], &(&both * 2)));
    assert_eq!(
        (counts(keyed_cache()), keyed_cache().stats().bypassed),
        ((4, 2, 0), 1)
    );
}

#[test]
fn an_enum_without_tensors_bypasses_the_cache() {
    #[torchcache]
    fn activation(xs: &Tensor) -> Activation {
        match xs.size()[1] {
            1 => Activation::Relu,
            _ => Activation::Tanh,
        }
    }
    for _ in 0..2 {
        assert_eq!(activation(&random(&[2, 1])), Activation::Relu);
        assert_eq!(activation(&random(&[2, 2])), Activation::Tanh);
    }
    assert_eq!(activation_cache().stats().bypassed, 4);
}

#[test]
fn a_state_without_the_batch_in_its_second_dimension_is_an_error() {
    #[torchcache]
    fn unbatched(xs: &Tensor) -> Result<nn::GRUState, torchcache::Error> {
        Ok(nn::GRUState(xs.shallow_clone()))
    }
    let error = unbatched(&random(&[2, 5])).unwrap_err();
    assert_eq!(error.kind(), torchcache::ErrorKind::OutputBatchMismatch);
    assert!(error.to_string().contains("`h`"), "{error}");
}

#[torchcache]
fn wrapped_options(xs: &Tensor) -> Option<BTreeMap<String, Option<Tensor>>> {
    Some(BTreeMap::from([
        ("a".into(), Some(xs * 2)),
        ("b".into(), None),
    ]))
}

#[test]
fn maps_nest() {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        let map = wrapped_options(&xs).unwrap();
        assert!(same(map["a"].as_ref().unwrap(), &(&xs * 2)) && map["b"].is_none());
    }
    assert_eq!(counts(wrapped_options_cache()), (3, 3, 0));
}

#[test]
fn calls_with_outputs_of_every_form_can_be_peeked() {
    #[torchcache]
    fn encode(xs: &Tensor) -> (Output, nn::GRUState) {
        let encoded = Encoded::Recurrent(
            nn::LSTMState((xs.unsqueeze(0), xs.unsqueeze(0))),
            [nn::GRUState(xs.unsqueeze(0))],
            Activation::Tanh,
        );
        let settings = ("set".into(), Some(1.0), vec![true]);
        let output = Output { encoded, settings };
        (output, nn::GRUState(xs.unsqueeze(0)))
    }
    let xs = random(&[3, 2]);
    encode(&xs.narrow(0, 0, 2));
    let rows = encode_cache().peek(|| encode(&xs)).unwrap();
    let cached: Vec<bool> = rows.iter().map(|row| row.is_cached()).collect();
    assert_eq!(cached, [true, true, false]);
}
