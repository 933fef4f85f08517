//! What the driver says of the GPUs. Where there is no GPU, no driver or no library for it, nothing is told.
//!
//! The driver takes milliseconds for an answer, and for ever when a GPU has fallen off the bus. So a thread of its own
//! asks it, once a second while somebody scrapes, and a scrape takes what it last said.
//!
//! **Source:** the reference manual of NVML; Triton's metrics guide.

use super::declared as d;
use super::declared::Metric;
use super::family::{Family, Label, Value};

#[cfg(feature = "gpu-metrics")]
mod nvml;
#[cfg(feature = "gpu-metrics")]
mod sampler;

/// What was read of a GPU; what it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub index: u32,
    pub uuid: String,
    /// From 0 to 1.
    pub utilization: Option<f64>,
    /// In bytes.
    pub memory_used: Option<u64>,
    pub memory_total: Option<u64>,
    /// In degrees Celsius.
    pub temperature: Option<f64>,
    /// In watts.
    pub power: Option<f64>,
    pub power_limit: Option<f64>,
    /// Joules since the first reading.
    pub energy: Option<f64>,
}

/// The GPUs of this machine.
#[derive(Default)]
pub(super) struct Gpus {
    #[cfg(feature = "gpu-metrics")]
    sampler: std::sync::OnceLock<Option<sampler::Sampler>>,
}

impl Gpus {
    /// What was last read of them; the first look begins to read, and finds nothing.
    #[cfg(feature = "gpu-metrics")]
    pub fn look(&self) -> Vec<Reading> {
        let sampler = self.sampler.get_or_init(|| sampler::Sampler::start(nvml::open));
        sampler.as_ref().map(sampler::Sampler::look).unwrap_or_default()
    }

    /// Nothing: this build does not ask.
    #[cfg(not(feature = "gpu-metrics"))]
    #[expect(clippy::unused_self, reason = "the other build has something")]
    pub fn look(&self) -> Vec<Reading> {
        Vec::new()
    }
}

/// What a metric tells of a GPU.
type Told = (&'static Metric, fn(&Reading) -> Option<Value<'static>>);

/// What is told of them.
pub(super) fn families(gpus: &[Reading]) -> Vec<Family<'static>> {
    let told: [Told; 6] = [
        (&d::GPU_UTILIZATION, |gpu| gpu.utilization.map(Value::from)),
        (&d::GPU_MEMORY_USED, |gpu| gpu.memory_used.map(Value::from)),
        (&d::GPU_MEMORY_TOTAL, |gpu| gpu.memory_total.map(Value::from)),
        (&d::GPU_TEMPERATURE, |gpu| gpu.temperature.map(Value::from)),
        (&d::GPU_POWER, |gpu| gpu.power.map(Value::from)),
        (&d::GPU_POWER_LIMIT, |gpu| gpu.power_limit.map(Value::from)),
    ];
    filled(&told, gpus, |gpu| [gpu.index.to_string().into(), gpu.uuid.clone().into()])
}

/// The same under Triton's names.
pub(super) fn triton_families(gpus: &[Reading]) -> Vec<Family<'static>> {
    let told: [Told; 6] = [
        (&d::NV_GPU_UTILIZATION, |gpu| gpu.utilization.map(Value::from)),
        (&d::NV_GPU_MEMORY_TOTAL, |gpu| gpu.memory_total.map(Value::from)),
        (&d::NV_GPU_MEMORY_USED, |gpu| gpu.memory_used.map(Value::from)),
        (&d::NV_GPU_POWER, |gpu| gpu.power.map(Value::from)),
        (&d::NV_GPU_POWER_LIMIT, |gpu| gpu.power_limit.map(Value::from)),
        (&d::NV_ENERGY, |gpu| gpu.energy.map(Value::from)),
    ];
    filled(&told, gpus, |gpu| [gpu.uuid.clone().into()])
}

/// The families that have a sample.
fn filled<const LABELS: usize>(
    told: &[Told],
    gpus: &[Reading],
    labels: impl Fn(&Reading) -> [Label; LABELS],
) -> Vec<Family<'static>> {
    let mut families = Vec::new();
    for (metric, read) in told {
        let mut family = Family::new(metric);
        for gpu in gpus {
            if let Some(value) = read(gpu) {
                family.push(labels(gpu), value);
            }
        }
        if !family.samples.is_empty() {
            families.push(family);
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(families: &[Family<'_>]) -> Vec<(&'static str, usize)> {
        families.iter().map(|family| (family.metric.name, family.samples.len())).collect()
    }

    #[test]
    fn what_a_gpu_does_not_say_has_no_sample() {
        assert_eq!(names(&families(&[])), []);
        let quiet = Reading { uuid: "GPU-1".to_owned(), memory_used: Some(1), ..Reading::default() };
        let loud = Reading { index: 1, power: Some(70.5), ..quiet.clone() };
        let both = [quiet, loud];
        assert_eq!(names(&families(&both)), [("axon_gpu_memory_used_bytes", 2), ("axon_gpu_power_watts", 1)]);
        assert_eq!(
            names(&triton_families(&both)),
            [("nv_gpu_memory_used_bytes", 2), ("nv_gpu_power_usage", 1)]
        );
        let labels: Vec<_> =
            families(&both)[1].samples[0].labels.iter().map(Label::as_str).map(str::to_owned).collect();
        assert_eq!(labels, ["1", "GPU-1"]);
    }
}
