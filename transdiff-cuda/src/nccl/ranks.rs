//! Members of a communicator, and whether they can form one.

use super::library::{UniqueId, Version};

/// A rank's part of the meeting, which all ranks receive: version of NCCL, GPU, and rank 0's name for the communicator.
pub(super) type Report = (i32, [u8; 16], Vec<u8>);

/// Returns the name of the communicator of ranks with these reports, or why they cannot form one.
pub(super) fn meet(reports: &[Report]) -> Result<UniqueId, String> {
    let versions = reports.iter().map(|&(version, ..)| Version(version));
    let gpus: Vec<[u8; 16]> = reports.iter().map(|&(_, gpu, _)| gpu).collect();
    let (first, _, id) = &reports[0];
    for (rank, version) in versions.enumerate() {
        let first = Version(*first);
        if version != first {
            return Err(format!(
                "rank 0 has NCCL {first} and rank {rank} NCCL {version}: expected one version on all machines"
            ));
        }
        if let Some(same) = gpus[..rank].iter().position(|gpu| *gpu == gpus[rank]) {
            return Err(format!(
                "ranks {same} and {rank} use the same GPU, {}: NCCL needs a GPU per rank. Start at most as many processes \
                 per machine as it has GPUs, and choose the GPU by the local rank",
                uuid(gpus[rank])
            ));
        }
    }
    let bytes = <[u8; UniqueId::BYTES]>::try_from(&id[..]);
    bytes
        .map(UniqueId)
        .map_err(|_| format!("expected a name of {} bytes from rank 0, got {}", UniqueId::BYTES, id.len()))
}

/// The name of a GPU, as nvidia-smi prints it.
fn uuid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of ranks with these versions and GPUs.
    fn outcome(ranks: &[(i32, u8)]) -> Result<[u8; 128], String> {
        let report = |&(version, gpu): &(i32, u8)| (version, [gpu; 16], vec![gpu; 128]);
        meet(&ranks.iter().map(report).collect::<Vec<_>>()).map(|id| id.0)
    }

    #[test]
    fn communicator_has_the_name_of_rank_0() {
        assert_eq!(outcome(&[(22703, 1), (22703, 2)]), Ok([1; 128]));
        assert!(meet(&[(22703, [1; 16], vec![1; 127])]).is_err());
    }

    #[test]
    fn conflicts_name_the_ranks() {
        let reason = outcome(&[(22703, 1), (22703, 2), (21403, 3)]).unwrap_err();
        assert!(reason.contains("rank 0 has NCCL 2.27.3 and rank 2 NCCL 2.14.3"), "{reason}");
        let reason = outcome(&[(22703, 1), (22703, 2), (22703, 2)]).unwrap_err();
        let gpu = "GPU-02020202-0202-0202-0202-020202020202";
        assert!(reason.contains(&format!("ranks 1 and 2 use the same GPU, {gpu}")), "{reason}");
    }
}
