//! What can be known of an image without decoding a record.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ImageError;

/// The first message of an image: who made it, of what, and what a restart needs.
///
/// Fields may be added in later versions of the program; a reader ignores those it does not know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Preamble {
    /// The program and version that wrote the image, as "cryo 0.1.0".
    #[prost(string, tag = "1")]
    pub created_by: String,
    /// When the image was begun, in nanoseconds since 1970-01-01 UTC.
    #[prost(uint64, tag = "2")]
    pub created_unix_nanoseconds: u64,
    /// The job's name, empty where it has none.
    #[prost(string, tag = "3")]
    pub job_name: String,
    /// How many images of this job came before, in the count the job's owner keeps.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// What the restarting host must have. A reader that does not know a name must refuse the restart.
    #[prost(message, repeated, tag = "5")]
    pub needs: Vec<Need>,
    /// 16 random bytes that name this image.
    #[prost(bytes = "vec", tag = "6")]
    pub image_id: Vec<u8>,
    /// The host name of the machine that wrote the image, empty where not said.
    #[prost(string, tag = "7")]
    pub node: String,
    /// The release of the kernel that the image was written under (uname -r), empty where not said.
    #[prost(string, tag = "8")]
    pub kernel: String,
}

/// One need of the restart: a feature's name, and how much of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Need {
    /// The feature, as "kernel.clone3_set_tid" or "cpu.xsave_size".
    #[prost(string, tag = "1")]
    pub name: String,
    /// The feature's value; empty where the name says all.
    #[prost(string, tag = "2")]
    pub value: String,
}

impl Preamble {
    /// A preamble with the present time and a fresh image id; the other fields are empty.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the kernel gives no random bytes (getrandom(2)).
    pub fn new(created_by: impl Into<String>) -> Result<Self, ImageError> {
        let mut image_id = vec![0; 16];
        let mut filled = 0;
        while filled < image_id.len() {
            filled += rustix::rand::getrandom(
                &mut image_id[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )
            .map_err(|error| ImageError::io("get random bytes for the image's id")(error.into()))?;
        }
        let created_unix_nanoseconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            });
        Ok(Self {
            created_by: created_by.into(),
            created_unix_nanoseconds,
            image_id,
            ..Self::default()
        })
    }

    /// The image's id in hexadecimal.
    #[must_use]
    pub fn image_id_text(&self) -> String {
        self.image_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}
