//! The end of a boot that nobody has found good in time.

use crate::progress::Progress;

use super::boots::{BootAttempt, BootLog, FailedCheck, Stage};
use super::{BootVerdict, Sysroot, SysrootError, layout};

impl Sysroot {
    /// Records that this boot was not found good in time, for whatever reason: it counts as one that failed. Where what is
    /// running is not on trial, nothing is recorded, and a reboot does not help.
    pub fn expire_boot(&self, now: i64, progress: &dyn Progress) -> Result<BootVerdict, SysrootError> {
        let recorded = match self.record_boot(now, progress) {
            // A version whose kernel cannot mount it is one that fails. An automount is there, and cannot be opened.
            Err(SysrootError::BootNotMounted { .. } | SysrootError::Boot(_) | SysrootError::Fs(_))
                if self.atomos.exists(layout::BOOT_IS_MOUNTED)? =>
            {
                return self.expire_boot_unmounted(now);
            }
            recorded => recorded?,
        };
        let late = not_in_time();
        self.conclude(now, !recorded.on_trial, |attempt| {
            if recorded.on_trial && !attempt.failed.contains(&late) {
                attempt.failed.push(late);
            }
        })
    }

    /// The same where nobody can see what the loader has counted: what is remembered of this trial has to do, and a reboot helps for as
    /// long as the loader may have tries left. It may be one that does not count.
    fn expire_boot_unmounted(&self, now: i64) -> Result<BootVerdict, SysrootError> {
        let _lock = self.lock()?;
        let state = self.state()?;
        let booted = self.booted()?;
        let found = booted.as_ref().and_then(|id| state.get(id));
        let tried = found.filter(|found| found.is_on_trial() && self.runs_newest_entry(found));
        let mut verdict = BootVerdict {
            booted: booted.clone(),
            passed: tried.is_none(),
            on_trial: tried.is_some(),
            good: found.is_some_and(|found| found.good),
            reboot_helps: false,
        };
        let Some(deployment) = tried else {
            return Ok(verdict);
        };
        let tries = deployment.tries.unwrap_or_default();
        let mut log = BootLog::load_or_renew(&self.atomos)?;
        let boot_id = self.running.boot_id.clone();
        let trial = log.trial(&deployment.id, deployment.entry, tries);
        let is_recorded =
            boot_id.is_some() && trial.attempts.iter().any(|attempt| attempt.boot_id == boot_id);
        // The last try helps as well: after it the loader takes another version. What boots once more has a loader that does not count.
        verdict.reboot_helps = is_recorded || trial.left > 0;
        if is_recorded || trial.left == 0 {
            return Ok(verdict);
        }
        trial.left -= 1;
        trial.attempts.push(BootAttempt {
            boot_id,
            time: Some(now),
            stage: Stage::UserSpace,
            failed: vec![not_in_time()],
        });
        self.save_boots(&log)?;
        Ok(verdict)
    }
}

fn not_in_time() -> FailedCheck {
    FailedCheck {
        check: "boot-complete".to_owned(),
        ended: "not reached in time".to_owned(),
        output: String::new(),
    }
}
