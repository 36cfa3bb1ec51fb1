//! The workloads: what goes into a cached call, and what comes out. Apart, since everything that
//! is timed is timed on them.

use tch::{Device, Kind, Tensor};

/// Rows of one shape and kind, in batches, and a forward that costs next to nothing, so that what
/// is timed is the cache.
#[derive(Debug)]
pub struct Workload {
    /// As tables and the peer call it.
    pub name: &'static str,
    /// Rows of a batch.
    pub batch: i64,
    /// Batches of a pass.
    pub batches: usize,
    /// Shape of an input row.
    pub shape: &'static [i64],
    /// Kind of the input.
    pub kind: Kind,
    /// The cached function.
    pub forward: fn(&Tensor) -> Tensor,
}

/// The three workloads that the bars are about; `peer.py` has the same.
pub const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "vision",
        batch: 64,
        batches: 8,
        shape: &[3, 224, 224],
        kind: Kind::Float,
        forward: |xs| xs.flatten(1, -1).narrow(1, 0, 512) * 2,
    },
    Workload {
        name: "embed",
        batch: 256,
        batches: 32,
        shape: &[768],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    },
    Workload {
        name: "tokens",
        batch: 32,
        batches: 32,
        shape: &[128],
        kind: Kind::Int64,
        forward: |xs| {
            let ones = Tensor::ones([384], (Kind::Float, xs.device()));
            xs.unsqueeze(-1).to_kind(Kind::Float) * ones
        },
    },
];

/// A batch as the calls see it, and its bytes as the limits see them: safe code cannot look into a
/// tensor, so what is only to be touched once lies there a second time.
#[derive(Debug)]
pub struct Batch {
    /// The argument of the call.
    pub input: Tensor,
    /// Its bytes.
    pub input_bytes: Vec<u8>,
    /// The bytes of what the forward makes of it.
    pub output_bytes: Vec<u8>,
    /// The ids of its rows: no other row of a pass has one of them.
    pub ids: Vec<i64>,
}

impl Workload {
    /// The batches of a pass, the same ones each time.
    pub fn data(&self, batches: usize, device: Device) -> Vec<Batch> {
        tch::manual_seed(0);
        let shape: Vec<i64> = [self.batch].iter().chain(self.shape).copied().collect();
        let batch = |number: usize| {
            let first = number as i64 * self.batch;
            let input = match self.kind {
                Kind::Int64 => Tensor::randint(30_000, &shape, (self.kind, Device::Cpu)),
                _ => Tensor::randn(&shape, (self.kind, Device::Cpu)),
            };
            Batch {
                input_bytes: bytes(&input),
                output_bytes: bytes(&(self.forward)(&input)),
                input: input.to_device(device),
                ids: (first..first + self.batch).collect(),
            }
        };
        (0..batches).map(batch).collect()
    }

    /// Its input: `256 x [768] f32 (3.1 kB a row)`.
    pub fn describe(&self) -> String {
        let bytes = self.shape.iter().product::<i64>() as usize * self.kind.elt_size_in_bytes();
        let kind = match self.kind {
            Kind::Float => "f32",
            Kind::Int64 => "i64",
            _ => "bytes",
        };
        let row = crate::table::bytes(bytes as f64);
        format!("{} × {:?} {kind} ({row} a row)", self.batch, self.shape)
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_have_the_sizes_that_the_bars_were_set_for() {
        let sizes = WORKLOADS.map(|workload| {
            let batch = &workload.data(1, Device::Cpu)[0];
            let rows = workload.batch as usize;
            assert_eq!(batch.input.size()[0], workload.batch);
            (
                rows,
                batch.input_bytes.len() / rows,
                batch.output_bytes.len() / rows,
            )
        });
        let expected = [
            (64, 3 * 224 * 224 * 4, 512 * 4),
            (256, 768 * 4, 768 * 4),
            (32, 128 * 8, 128 * 384 * 4),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn batches_differ_and_their_bytes_are_those_of_the_tensors() {
        let [_, embed, _] = WORKLOADS;
        let data = embed.data(2, Device::Cpu);
        assert_ne!(data[0].input_bytes, data[1].input_bytes);
        for batch in &data {
            assert_eq!(bytes(&batch.input), batch.input_bytes);
            assert_eq!(bytes(&(&batch.input * 2)), batch.output_bytes);
        }
    }
}
