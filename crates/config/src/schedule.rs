//! `[schedule]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the way down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// A straight line.
    #[default]
    Linear,
    /// Half a cosine.
    Cosine,
    /// (1 - x)^power.
    Polynomial,
    /// 1 - √x: steep at first, flat at the end; the best way down after a long `hold` (Hägele et al. 2024, "Scaling Laws
    /// and Compute-Optimal Training Beyond Fixed Training Durations").
    Sqrt,
    /// None.
    Constant,
}

/// How the learning rate moves: up for `warmup`, flat until `hold`, then down to `final_ratio` of the peak. With a late
/// `hold` it is WSD ("warm-up, stable, decay", Hu et al. 2024): `warmup = 0.02`, `hold = 0.8`, `decay = "sqrt"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// `linear`, `cosine`, `polynomial`, `sqrt`, `constant`.
    pub decay: Decay,
    /// Share of `run.steps` for the linear way up.
    pub warmup: f64,
    /// Share of `run.steps` at which the way down begins. Default: `warmup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<f64>,
    /// Of the peak, at the last step.
    pub final_ratio: f64,
    /// For `polynomial`.
    pub power: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { decay: Decay::Linear, warmup: 0.01, hold: None, final_ratio: 0.0, power: 1.0 }
    }
}

impl ScheduleConfig {
    /// The factor on the peak learning rate for the step that makes `step` done (1-based) of `total`.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let total = total.max(1) as f64;
        let warmup = (self.warmup * total).floor();
        let done = (step.max(1) - 1) as f64;
        if done < warmup {
            return (done + 1.0) / warmup;
        }
        let hold = (self.hold.unwrap_or(self.warmup) * total).floor().max(warmup);
        if done < hold || self.decay == Decay::Constant {
            return 1.0;
        }
        let way = ((done - hold) / (total - hold).max(1.0)).min(1.0);
        let shape = match self.decay {
            Decay::Linear => 1.0 - way,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * way).cos()),
            Decay::Polynomial => (1.0 - way).powf(self.power),
            Decay::Sqrt => 1.0 - way.sqrt(),
            Decay::Constant => 1.0,
        };
        self.final_ratio + (1.0 - self.final_ratio) * shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_flat_down() {
        let schedule = ScheduleConfig { warmup: 0.1, hold: Some(0.5), ..ScheduleConfig::default() };
        assert_eq!(schedule.factor(1, 100), 0.1);
        assert_eq!(schedule.factor(10, 100), 1.0);
        assert_eq!(schedule.factor(50, 100), 1.0);
        assert!((schedule.factor(76, 100) - 0.5).abs() < 1e-12);
        assert!(schedule.factor(100, 100) > 0.0);
    }

    #[test]
    fn warm_up_stable_decay() {
        let schedule =
            ScheduleConfig { decay: Decay::Sqrt, warmup: 0.02, hold: Some(0.8), ..ScheduleConfig::default() };
        let at = |step| schedule.factor(step, 1000);
        assert_eq!((at(10), at(20), at(500), at(800), at(801)), (0.5, 1.0, 1.0, 1.0, 1.0));
        // A quarter of the way down takes half of the height, and the end is reached slowly.
        assert!((at(851) - 0.5).abs() < 1e-12);
        assert!((at(963) - 0.1).abs() < 1e-12, "{}", at(963));
    }

    #[test]
    fn every_decay_ends_near_its_final_ratio_and_never_rises() {
        for decay in [Decay::Linear, Decay::Cosine, Decay::Polynomial, Decay::Sqrt] {
            let schedule = ScheduleConfig { decay, power: 2.0, final_ratio: 0.1, ..ScheduleConfig::default() };
            let factors: Vec<f64> = (11..=1000).map(|step| schedule.factor(step, 1000)).collect();
            assert!(factors.windows(2).all(|pair| pair[1] <= pair[0]), "{decay:?}");
            assert!((factors[factors.len() - 1] - 0.1).abs() < 0.01, "{decay:?}");
        }
    }
}
