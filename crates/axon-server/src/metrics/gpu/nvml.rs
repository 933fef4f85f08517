//! Asks the driver, by the library that comes with it and is loaded here.

use std::collections::HashMap;
use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::Reading;

/// What a driver installs; the name without a version comes with the development kit.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Opens the library and returns what reads all GPUs; `None` where there is none.
pub(super) fn open() -> Option<impl FnMut() -> Vec<Reading>> {
    let opened = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init().or_else(|_| Nvml::init());
    let nvml = match opened {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::debug!("GPUs are not told of: {error}");
            return None;
        }
    };
    let mut reader = Reader { nvml, energy: HashMap::new() };
    Some(move || reader.read())
}

struct Reader {
    nvml: Nvml,
    /// By GPU, what its counter of millijoules was at the first reading.
    energy: HashMap<String, u64>,
}

impl Reader {
    fn read(&mut self) -> Vec<Reading> {
        let Self { nvml, energy } = self;
        let count = nvml.device_count().unwrap_or_default();
        // One that is not ours to ask, or is gone, is left out.
        (0..count).filter_map(|index| read(&nvml.device_by_index(index).ok()?, index, energy).ok()).collect()
    }
}

fn read(device: &Device<'_>, index: u32, energy: &mut HashMap<String, u64>) -> Result<Reading, NvmlError> {
    let uuid = device.uuid()?;
    let memory = device.memory_info().ok();
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
    let taken = device.total_energy_consumption().ok().map(|millijoules| {
        let first = *energy.entry(uuid.clone()).or_insert(millijoules);
        millijoules.saturating_sub(first) as f64 / 1e3
    });
    Ok(Reading {
        index,
        utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.map(|memory| memory.total),
        temperature: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        power: device.power_usage().ok().map(watts),
        power_limit: device.enforced_power_limit().ok().map(watts),
        energy: taken,
        uuid,
    })
}
