//! Writes through raw pointers, which libtorch does not notice, and `refresh()`.

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::raw;
use crate::support::{Ran, random, same};

/// The position of the factor in the weight of `Table`.
const FACTOR: usize = 12_345;

/// `x` times one element of a table in host memory.
#[torchcache]
#[derive(Debug)]
struct Table {
    weight: Tensor,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Table {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * self.weight.narrow(0, FACTOR as i64, 1)
    }
}

fn table(length: i64) -> Table {
    Table {
        weight: Tensor::full([length], 2.0, (Kind::Float, Device::Cpu)),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

#[test]
fn a_raw_write_to_a_small_weight_is_noticed() {
    let mut model = table(16_000);
    let xs = random(&[3, 2]).to_device(Device::Cpu);
    assert!(same(&model.forward(&xs), &(&xs * 2.0)));
    raw::write(&mut model.weight, FACTOR, 5.0);
    assert!(same(&model.forward(&xs), &(&xs * 5.0)));
    assert_eq!(model.ran.take(), (2, 6));
}

#[test]
fn refresh_notices_a_raw_write_to_a_large_weight() {
    let mut model = table(1 << 20);
    let xs = random(&[3, 2]).to_device(Device::Cpu);
    assert!(same(&model.forward(&xs), &(&xs * 2.0)));
    let hash = model.torchcache.module_hash();
    raw::write(&mut model.weight, FACTOR, 5.0);
    assert!(
        same(&model.forward(&xs), &(&xs * 2.0)),
        "of a large weight only a sample is compared"
    );
    assert_eq!(model.ran.take(), (1, 3));
    model.torchcache.refresh();
    assert!(same(&model.forward(&xs), &(&xs * 5.0)));
    assert_eq!(model.ran.take(), (1, 3));
    assert_ne!(model.torchcache.module_hash(), hash);
    // Without a change, no row is computed.
    model.torchcache.refresh();
    assert!(same(&model.forward(&xs), &(&xs * 5.0)));
    assert_eq!(model.ran.take(), (0, 0));
}
