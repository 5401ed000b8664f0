//! Agreement of all ranks on whether, and as what, they begin to communicate.

use transdiff_core::Result;
use transdiff_core::distributed::Communicator;

use super::library::{UniqueId, Version};

/// What a rank brings to the communicator.
pub(super) struct Member {
    pub(super) version: Version,
    pub(super) gpu: [u8; 16],
    /// The name of the communicator, from rank 0.
    pub(super) id: UniqueId,
}

impl Member {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.version.0.to_le_bytes()[..], &self.gpu, &self.id.0].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (gpu, id) = rest.split_first_chunk()?;
        let version = Version(i32::from_le_bytes(*version));
        Some(Self { version, gpu: *gpu, id: UniqueId(id.try_into().ok()?) })
    }
}

/// Returns the value if all ranks have one, otherwise on all ranks the reason of the first that has none.
pub(super) fn agree<T>(communicator: &dyn Communicator, own: Result<T, String>) -> Result<Result<T, String>> {
    let reason = own.as_ref().err().map_or("", |reason| reason);
    let reasons = communicator.gather(reason.as_bytes())?;
    let mut failed = reasons.iter().enumerate().filter(|(_, reason)| !reason.is_empty());
    let Some((rank, reason)) = failed.next() else { return Ok(own) };
    let others = match failed.count() {
        0 => String::new(),
        n => format!(" (and {n} other ranks)"),
    };
    Ok(Err(format!("rank {rank}{others}: {}", String::from_utf8_lossy(reason))))
}

/// Exchanges the members. Returns the name of the communicator, or why they cannot form one; both are equal on all ranks.
pub(super) fn meet(communicator: &dyn Communicator, own: &Member) -> Result<Result<UniqueId, String>> {
    let reports = communicator.gather(&own.to_bytes())?;
    let mut members = Vec::with_capacity(reports.len());
    for (rank, report) in reports.iter().enumerate() {
        match Member::from_bytes(report) {
            Some(member) => members.push(member),
            None => return Ok(Err(format!("rank {rank} runs another version of this program"))),
        }
    }
    Ok(conflict(&members).map_or_else(|| Ok(members[0].id), Err))
}

/// The reason why members cannot communicate, if there is one.
fn conflict(members: &[Member]) -> Option<String> {
    for (rank, member) in members.iter().enumerate() {
        let (first, other) = (members[0].version, member.version);
        if other != first {
            return Some(format!(
                "rank 0 has NCCL {first} and rank {rank} NCCL {other}: expected one version on all machines"
            ));
        }
        if let Some(same) = members[..rank].iter().position(|before| before.gpu == member.gpu) {
            return Some(format!(
                "ranks {same} and {rank} use the same GPU, {}: NCCL needs a GPU per rank. Start at most as many processes \
                 per machine as it has GPUs, and choose the GPU by the local rank",
                uuid(member.gpu)
            ));
        }
    }
    None
}

/// The name of a GPU, as nvidia-smi prints it.
fn uuid(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(version: i32, gpu: u8) -> Member {
        Member { version: Version(version), gpu: [gpu; 16], id: UniqueId([7; UniqueId::BYTES]) }
    }

    #[test]
    fn members_survive_their_encoding() {
        let bytes = member(22703, 5).to_bytes();
        let read = Member::from_bytes(&bytes).unwrap();
        assert_eq!((read.version.to_string(), read.gpu, read.id.0), ("2.27.3".into(), [5; 16], [7; 128]));
        for len in 0..bytes.len() {
            assert!(Member::from_bytes(&bytes[..len]).is_none(), "{len} bytes");
        }
        assert!(Member::from_bytes(&[bytes, vec![0]].concat()).is_none());
    }

    #[test]
    fn conflicts_name_the_ranks() {
        let of = |members: &[(i32, u8)]| {
            conflict(&members.iter().map(|&(version, gpu)| member(version, gpu)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[(22703, 1), (22703, 2)]), None);
        let reason = of(&[(22703, 1), (22703, 2), (21403, 3)]).unwrap();
        assert!(reason.contains("rank 0 has NCCL 2.27.3 and rank 2 NCCL 2.14.3"), "{reason}");
        let reason = of(&[(22703, 1), (22703, 2), (22703, 2)]).unwrap();
        let gpu = "GPU-02020202-0202-0202-0202-020202020202";
        assert!(reason.contains(&format!("ranks 1 and 2 use the same GPU, {gpu}")), "{reason}");
    }
}
