//! [`Placements`]: on which devices a function leaves its outputs, where the tensors of a call do not show it.

use std::sync::RwLock;

use tch::Device;
use torchcache_store::schema::OutputDevice;

use crate::schema::{CallDevices, TensorSchema};
use crate::sync::{read, write};

/// What calls of a function showed, for later ones.
#[derive(Debug, Default)]
pub(crate) struct Placements(RwLock<Vec<Placement>>);

/// In calls with tensors on these devices, outputs that were recorded so are there.
#[derive(Debug)]
struct Placement {
    call: CallDevices,
    recorded: Vec<OutputDevice>,
    outputs: Vec<Device>,
}

/// The most that are kept, the latest ones.
const MOST: usize = 64;

impl Placement {
    fn is_of(&self, call: &CallDevices, schema: &TensorSchema) -> bool {
        let recorded = schema.tensors.iter().map(|spec| spec.device);
        self.call == *call && recorded.eq(self.recorded.iter().copied())
    }
}

impl Placements {
    /// Where the tensors of a schema are in a call, if one like it has shown it.
    pub(crate) fn find(&self, call: &CallDevices, schema: &TensorSchema) -> Option<Vec<Device>> {
        let known = read(&self.0);
        let known = known.iter().find(|known| known.is_of(call, schema));
        known.map(|known| known.outputs.clone())
    }

    /// Notes where the tensors of a schema are in a call.
    pub(crate) fn learn(&self, call: &CallDevices, schema: &TensorSchema, outputs: Vec<Device>) {
        let mut known = write(&self.0);
        known.retain(|known| !known.is_of(call, schema));
        if known.len() == MOST {
            known.remove(0);
        }
        known.push(Placement {
            call: call.clone(),
            recorded: schema.tensors.iter().map(|spec| spec.device).collect(),
            outputs,
        });
    }
}
