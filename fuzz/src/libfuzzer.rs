//! One target under libFuzzer: `AXON_FUZZ_TARGET` names it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("AXON_FUZZ_TARGET").unwrap_or_default();
    axon_fuzz::target(&name).unwrap_or_else(|| panic!("AXON_FUZZ_TARGET: no target is called `{name}`"))
});

fuzz_target!(|data: &[u8]| TARGET(data));
