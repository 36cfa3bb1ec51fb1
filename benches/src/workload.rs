//! The workloads: input and output of the cached calls that are timed.

use tch::{Device, Kind, Tensor};

/// Batches of rows of one shape and kind, and a forward that costs almost nothing, so that the cache is
/// what is timed.
#[derive(Debug)]
pub struct Workload {
    /// The name in tables and for the peer.
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

/// The three workloads that are compared with the peer; `peer.py` has the same.
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

/// A batch for calls, and a copy of its bytes for limits: safe code cannot read a tensor in place.
#[derive(Debug)]
pub struct Batch {
    /// The argument of the call.
    pub input: Tensor,
    /// Its bytes.
    pub input_bytes: Vec<u8>,
    /// The bytes of the output.
    pub output_bytes: Vec<u8>,
    /// The ids of its rows, unique in a pass.
    pub ids: Vec<i64>,
}

impl Workload {
    /// The batches of a pass, the same ones in each process.
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
    fn the_workloads_have_the_sizes_of_the_published_figures() {
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
    fn batches_differ_and_their_bytes_are_the_tensors() {
        let [_, embed, _] = WORKLOADS;
        let data = embed.data(2, Device::Cpu);
        assert_ne!(data[0].input_bytes, data[1].input_bytes);
        for batch in &data {
            assert_eq!(bytes(&batch.input), batch.input_bytes);
            assert_eq!(bytes(&(&batch.input * 2)), batch.output_bytes);
        }
    }
}
