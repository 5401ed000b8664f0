//! Random sequences of calls: a short run of the fuzz target `c_api`.

#[path = "../../tests/common/allocation.rs"]
#[allow(dead_code)]
mod allocation;
mod common;

use allocation::Counting;
use common::sequences;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        rng_seed: RngSeed::Fixed(0xAB1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sessions_remain_usable_after_any_sequence_of_calls(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        sequences::run(&[]);
        let ((), peak) = allocation::peak_of(|| sequences::run(&bytes));
        prop_assert!(peak < 8 << 20, "{peak} bytes");
    }
}
