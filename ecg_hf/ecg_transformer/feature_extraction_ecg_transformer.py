"""Feature extractor of the ECG Transformer: converts raw records of any source to the model's input windows."""

import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .common_ecg_transformer import LEAD_NAMES, check_choice
from .inputs_ecg_transformer import Batch, flat_leads_in_words, group_records, in_millivolts, is_count, is_number
from .lead_checks_ecg_transformer import (
    describe_limb_faults,
    is_flat,
    limb_lead_faults,
    offsets_in_words,
    small_voltages_in_words,
)
from .saving_ecg_transformer import AUTO_MAP, copy_code_files
from .signal_steps_ecg_transformer import (
    RESAMPLE_METHODS,
    bandpass_filter,
    canonical_lead_names,
    complete_limb_leads,
    cut_windows,
    decimate_stacked,
    minmax,
    resample,
    resampled_length,
    resampled_stretch,
    round_to_float16,
    zscore,
)

# A record that is this many times longer than its crops is resampled crop by crop. Shorter ones, which come as batches
# of equal records, are faster all at once.
LONG_RECORD = 8


class ECGTransformerFeatureExtractor(FeatureExtractionMixin):
    r"""
    Converts raw ECG records to the `input_values` of an ECG Transformer: float32, (windows of all records, leads,
    samples). It accepts any sampling rate, any order and spelling of the leads, records shorter or longer than the
    model's window, and missing leads. Anything that would have to be guessed is an error.

    The ordered list `steps` defines the processing; the parameters of each step are the attributes below:

    - `leads`: the model's leads, in the model's order, selected by name (ignoring case and surrounding whitespace).
      Any two of I, II and III determine the other four limb leads exactly; these are computed where they are missing.
    - `resample`: to `sampling_rate` (times `decimation`), by default through polyphase filtering
      (`scipy.signal.resample_poly`). Both ends are extended by point reflection: on PTB-XL records from 500 to 100 Hz
      the error at the ends is half that of linear extension, and a seventh of that of zero padding.
    - `bandpass`: zero-phase Butterworth filters, the high-pass before the low-pass, or a zero-phase FIR filter;
      skipped if `bandpass` is None.
    - `windows`: windows of `num_samples`, one every `window_stride` samples from the start of the record. If the last
      one does not reach the end of the record, one more window is aligned with the end, so that all samples are
      covered: 12.3 s in windows of 5 s give windows starting at 0, 5 and 7.3 s. A record shorter than a window gives
      one window. `num_windows` and `cover_end` change this.
    - `normalize`: `(x - mean) / std`, then `clip`.

    Public encoders were trained with other steps, some in another order:

    - `zscore`: `(x - mean) / std` with the mean and standard deviation of the signal itself: of the record before the
      step `windows`, of the window after it. Constant signals become zero.
    - `minmax`: min-max scaling of each lead to [-1, 1], likewise over the record or the window.
    - `decimate`: every `decimation`-th sample after a low-pass filter (`scipy.signal.decimate`) on the concatenated
      leads. This is exactly what the authors of HuBERT-ECG do; it blurs the lead boundaries over about 10 samples.

    Finally, windows that are too short are zero-padded at the end and missing leads are set to zero: zero is the mean
    of normalised signals.

    Args:
        sampling_rate (`int` or `float`, defaults to 500): The model's rate in Hz; all sample counts refer to it.
        num_samples (`int`, defaults to 5000): Samples of a window, at the model's rate.
        lead_names (`list[str]`, *optional*, defaults to the 12 standard leads): The model's leads, in order.
        mean, std (`float` or `list[float]`, default to 0 and 1):
            Of the training data in mV, a scalar or one value for each lead of `lead_names`.
        clip (`float`, *optional*): Normalised values are clipped to ±`clip`.
        bandpass (`[float | None, float | None]`, *optional*): Low and high cutoff in Hz; None leaves a side open. As
            in the authors' code, 0.5 Hz moves the next second by up to 1 mV where a signal begins within a QRS.
        bandpass_order (`int`, defaults to 2): Order of each of the two filters (applied forward and backward).
        bandpass_fir_seconds (`float`, *optional*):
            Length of a FIR filter (Hamming window, odd number of taps) that replaces the Butterworth filters.
        resample_method (`str`, defaults to `"polyphase"`):
            `"polyphase"`, `"fourier"` (`scipy.signal.resample`) or `"linear"` (interpolation that preserves the first
            and the last sample).
        window_stride (`int`, *optional*, defaults to `num_samples`): Samples between window starts.
        num_windows (`int`, *optional*):
            Instead of `window_stride`: the number of windows of each record, evenly spaced from its start to its end.
            Records of more than `num_windows * num_samples` samples have gaps between the windows.
        cover_end (`bool`, defaults to `True`): Whether a window is added for the remainder at the end of a record.
        zscore_per_lead (`bool`, defaults to `True`):
            Whether `zscore` works on each lead separately or on all leads jointly.
        normalization_eps (`float`, defaults to 0): Added to the divisor of `zscore` and `minmax`.
        decimation (`int`, defaults to 1):
            Factor of the step `decimate`; steps between `resample` and it work at this multiple of `sampling_rate`.
        round_to_float16 (`bool`, defaults to `False`):
            Round to float16 before and after resampling and after each operation of `normalize`, which is the
            precision of the signals that Weimann's ECG-JEPA was trained on.
        lead_tokens (`bool`, defaults to `False`):
            For models with single-lead tokens: exactly the given leads are kept, in the model's order, none is
            computed or zero-filled, and `lead_ids` identifies them.
        return_attention_mask (`bool`, defaults to `False`): Whether to return an `attention_mask` for padding.
        steps (`list[str]`, *optional*): Names and order of the steps.

    All of these can also be set as attributes. `to_json_string()` contains every parameter on which the output
    depends, so that it can be used as a cache key.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        sampling_rate: float = 500,
        num_samples: int = 5000,
        lead_names: Sequence[str] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        clip: float | None = None,
        bandpass: Sequence[float | None] | None = None,
        bandpass_order: int = 2,
        bandpass_fir_seconds: float | None = None,
        resample_method: str = "polyphase",
        window_stride: int | None = None,
        num_windows: int | None = None,
        cover_end: bool = True,
        zscore_per_lead: bool = True,
        normalization_eps: float = 0.0,
        decimation: int = 1,
        round_to_float16: bool = False,
        lead_tokens: bool = False,
        return_attention_mask: bool = False,
        steps: Sequence[str] = ("leads", "resample", "bandpass", "windows", "normalize"),
        **kwargs,
    ):
        # Older files have the former name of this field.
        if "float16" in kwargs:
            round_to_float16 = kwargs.pop("float16")
        # Entries of a saved file that are not fields.
        for name in ("auto_map", "feature_extractor_type", "processor_class"):
            kwargs.pop(name, None)
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(f'`{name}`' for name in kwargs)}.")
        super().__init__()
        self.sampling_rate = sampling_rate
        self.num_samples = num_samples
        self.lead_names = list(canonical_lead_names(LEAD_NAMES if lead_names is None else lead_names))
        self.mean = mean
        self.std = std
        self.clip = clip
        self.bandpass = None if bandpass is None else list(bandpass)
        self.bandpass_order = bandpass_order
        self.bandpass_fir_seconds = bandpass_fir_seconds
        self.resample_method = resample_method
        self.window_stride = window_stride
        self.num_windows = num_windows
        self.cover_end = cover_end
        self.zscore_per_lead = zscore_per_lead
        self.normalization_eps = normalization_eps
        self.decimation = decimation
        self.round_to_float16 = round_to_float16
        self.lead_tokens = lead_tokens
        self.return_attention_mask = return_attention_mask
        self.steps = list(steps)
        self._check_settings()

    def __call__(
        self,
        signal,
        *,
        sampling_rate: float | Sequence[float] | None = None,
        lead_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
        units: str | None = None,
        missing_leads: str = "zero",
        return_tensors: str | None = "pt",
        return_record_index: bool = False,
        return_window_starts: bool = False,
        crop_positions: float | Sequence[float] | np.ndarray | None = None,
        check_leads: bool = True,
    ) -> BatchFeature:
        """
        Args:
            signal (array of shape `(leads, samples)`, or a list or array of such):
                One record or several, which may differ in everything but their units. A record may be flat, one lead
                after another, as in the rows of `load_ptbxl`; several such need one list of `lead_names` for each.
            sampling_rate (`float`, or one for each record): Sampling rate of `signal` in Hz.
            lead_names (`list[str]`, or one list for each record): The leads of `signal`, in order.
            units (`str`, *optional*):
                `"mV"` or `"uV"`. The default is mV for floats; required for integers (PTB-XL's int16 is µV).
            missing_leads (`str`, defaults to `"zero"`):
                Handling of model leads that a record lacks and that cannot be computed: `"zero"` sets them to zero
                with a warning (a model with lead tokens omits them), `"error"` raises an error.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` for torch, `"np"` or None for NumPy.
            return_record_index (`bool`, defaults to `False`): Whether to return `record_index`.
            return_window_starts (`bool`, defaults to `False`): Whether to return `window_starts`.
            crop_positions (`float` in [0, 1), or an array `(records,)` or `(records, crops)` of such, *optional*):
                Instead of all windows of a record, return those that start at
                `floor(position * (length - num_samples + 1))`, both at the rate at which windows are cut.
            check_leads (`bool`, defaults to `True`):
                False does not warn of flat and contradictory leads, for records that were checked before.

        Returns:
            [`BatchFeature`] with

            - `input_values` (windows of all records in order, leads, `num_samples`), float32;
            - with `lead_tokens`, `lead_ids` (windows, leads), int64: the index of each lead in `self.lead_names`;
            - with `return_attention_mask`, where any window is padded, `attention_mask` (windows, `num_samples`),
              int64: 1 for samples of the record;
            - with `return_record_index`, `record_index` (windows,), int64: the record of each window;
            - with `return_window_starts`, `window_starts` (windows,), int64: the sample of the record, at
              `sampling_rate`, with which each window begins.

        Raises:
            ValueError: a missing or invalid rate, lead name or unit, swapped axes, an empty record, missing values
                (NaN) or values beyond ±32.767 mV; the message names the record and the lead.
            TypeError: values that are not numeric.

        Warnings name, once in a call, leads that are missing, leads that are flat (constant before any filter: they
        become 0 after a high-pass or `zscore`, -1 after `minmax`), records whose voltages are those of another unit
        (less than 0.02 mV from peak to peak in every lead), and limb leads that contradict Einthoven's and
        Goldberger's equations by more than 50 µV, with the exchange of names that would mend it (not for crops).
        """
        self._check_settings()
        check_choice("missing_leads", missing_leads, ("zero", "error"))
        batches = group_records(signal, sampling_rate, lead_names, units, crop_positions)
        if check_leads:
            self._warn_of_voltages(batches)
            self._warn_of_limb_leads(batches)
        for batch in batches:
            for step in self.steps:
                self.take_step(step, batch)
            self._report_absent_leads(batch, missing_leads)
        if check_leads and (message := flat_leads_in_words(batches, self.lead_names)):
            warnings.warn(message, stacklevel=2)
        return self._collect(batches, return_tensors, return_record_index, return_window_starts)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, return_unused_kwargs: bool = False, **kwargs):
        """As in the library; a name that is neither a field nor an argument of loading is refused."""
        # A pipeline passes the arguments of its model on.
        passed_on = {"trust_remote_code", "code_revision", *(kwargs if "_from_pipeline" in kwargs else ())}
        loaded, unused = super().from_pretrained(pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs)
        if (wrong := sorted(unused.keys() - passed_on)) and not return_unused_kwargs:
            raise TypeError(f"{cls.__name__} has no field {', '.join(f'`{name}`' for name in wrong)}.")
        return (loaded, unused) if return_unused_kwargs else loaded

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict, **kwargs):
        """As in the library; fields that are given count whether the dictionary has them or not."""
        given = {name: kwargs.pop(name) for name in cls().to_dict() if name in kwargs}
        return super().from_dict({**feature_extractor_dict, **given}, **kwargs)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in the library; also copies the code, so that the folder loads where this package is not installed."""
        repo_id = kwargs.pop("repo_id", pathlib.Path(save_directory).resolve().name)
        saved = super().save_pretrained(save_directory)
        copy_code_files(save_directory)
        if push_to_hub:
            self.push_to_hub(repo_id, **kwargs)
        return saved

    def to_dict(self) -> dict:
        """All fields as Python values, and the `auto_map` that locates this class on the Hub."""
        fields = super().to_dict()
        fields = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in fields.items()}
        return {**fields, "auto_map": {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}}

    # Settings

    def _check_settings(self):
        if not is_number(self.sampling_rate) or not 0 < self.sampling_rate < np.inf:
            raise ValueError(f"`sampling_rate` must be a number above 0 Hz, got {self.sampling_rate!r}.")
        self._check_windows()
        self._check_filters()
        if self.clip is not None and not 0 < self.clip < np.inf:
            raise ValueError(f"`clip` must be a finite number above 0 standard deviations, got {self.clip}.")
        if not 0 <= self.normalization_eps < np.inf:
            raise ValueError(f"`normalization_eps` must be finite and at least 0, got {self.normalization_eps}.")
        self._per_lead("mean")
        if not (self._per_lead("std") > 0).all():
            raise ValueError(f"`std` must be above 0 mV, got {self.std}.")
        self._check_steps()

    def _check_windows(self):
        if not is_count(self.num_samples):
            raise ValueError(f"`num_samples` must be an integer above 0, got {self.num_samples!r}.")
        stride = self.num_samples if self.window_stride is None else self.window_stride
        if not is_count(stride) or stride > self.num_samples:
            raise ValueError(
                f"`window_stride` must be an integer from 1 to `num_samples` ({self.num_samples}), got {stride!r}."
            )
        if self.num_windows is not None and not (is_count(self.num_windows) and self.window_stride is None):
            raise ValueError(
                "`num_windows` must be an integer above 0, and needs `window_stride` to be None; got "
                f"{self.num_windows!r} and {self.window_stride!r}."
            )

    def _check_filters(self):
        check_choice("resample_method", self.resample_method, RESAMPLE_METHODS)
        if not is_count(self.decimation):
            raise ValueError(f"`decimation` must be an integer above 0, got {self.decimation!r}.")
        if self.bandpass_fir_seconds is not None and not 0 < self.bandpass_fir_seconds < np.inf:
            raise ValueError(f"`bandpass_fir_seconds` must be finite and above 0 s, got {self.bandpass_fir_seconds}.")
        if not is_count(self.bandpass_order):
            raise ValueError(f"`bandpass_order` must be an integer above 0, got {self.bandpass_order!r}.")
        if self.bandpass is None:
            return
        edges = [edge for edge in self.bandpass if edge is not None]
        if len(self.bandpass) != 2 or edges != sorted(set(edges)) or not all(0 < edge < np.inf for edge in edges):
            raise ValueError(f"`bandpass` must be a low and a high cutoff above 0 Hz, got {self.bandpass}.")

    def _check_steps(self):
        needed = ["leads", "resample", "windows"]
        if self.decimation > 1:
            needed.append("decimate")
        unknown = [step for step in self.steps if step not in _STEPS]
        if unknown or not set(needed) <= set(self.steps) or len(set(self.steps)) != len(self.steps):
            raise ValueError(
                f"`steps` must be from {', '.join(_STEPS)}, without duplicates, and include {', '.join(needed)}; "
                f"got {', '.join(self.steps)}."
            )
        place = {step: index for index, step in enumerate(self.steps)}
        if place["resample"] > min(place["windows"], place.get("decimate", len(place))):
            raise ValueError(f"`steps`: resample must come before windows and decimate; got {', '.join(self.steps)}.")

    def _per_lead(self, name: str) -> np.ndarray:
        """The statistic `mean` or `std` as (leads,) float32."""
        value = np.asarray(getattr(self, name), dtype=np.float32)
        if value.shape not in ((), (len(self.lead_names),)) or not np.isfinite(value).all():
            raise ValueError(
                f"`{name}` must be a number in mV or one for each of the {len(self.lead_names)} leads, got "
                f"{getattr(self, name)}."
            )
        return np.broadcast_to(value, len(self.lead_names))

    @property
    def can_resample_crops(self) -> bool:
        """Whether crops may be resampled instead of records: no step between `resample` and `windows` reads all."""
        between = self.steps[self.steps.index("resample") + 1 : self.steps.index("windows")]
        reads_all = any(step != "bandpass" or any(self.bandpass or ()) for step in between)
        return self.resample_method == "polyphase" and not reads_all

    @property
    def removes_offsets(self) -> bool:
        """Whether a constant added to a lead changes nothing in the windows."""
        has_high_pass = "bandpass" in self.steps and (self.bandpass or [None])[0] is not None
        return has_high_pass or "minmax" in self.steps or ("zscore" in self.steps and self.zscore_per_lead)

    @property
    def flat_windows_matter(self) -> bool:
        """Whether a step after `windows` treats a lead that is constant in a window, before any filter, apart."""
        later = self.steps[self.steps.index("windows") + 1 :]
        return bool({"zscore", "minmax"} & {*later}) or ("bandpass" in later and any(self.bandpass or ()))

    # Steps

    def take_step(self, step: str, batch: Batch):
        """One of `steps`, on records of equal shape; a `ValueError` names record and step."""
        try:
            _STEPS[step](self, batch)
        except ValueError as error:
            raise ValueError(f"{batch.label}, step `{step}`: {error}") from error

    def _select_leads(self, batch: Batch):
        given = {name: row for row, name in enumerate(batch.lead_names)}
        if not given.keys() & set(self.lead_names):
            raise ValueError(
                f"none of the model's leads: expected some of {' '.join(self.lead_names)}, got "
                f"{' '.join(batch.lead_names)}."
            )
        wanted = tuple(name for name in self.lead_names if name in given or not self.lead_tokens)
        if given.keys() >= set(wanted):
            if wanted != batch.lead_names:
                rows = [given[name] for name in wanted]
                filtered = batch.values is not batch.given
                batch.values, batch.flat = batch.values[:, rows], batch.flat[:, rows]
                batch.given = batch.given[:, rows] if filtered else batch.values
        else:
            self._complete_leads(batch, wanted)
        batch.lead_names = wanted

    def _complete_leads(self, batch: Batch, wanted: tuple[str, ...]):
        def completed(values: np.ndarray) -> np.ndarray:
            leads = complete_limb_leads({name: values[:, row] for row, name in enumerate(batch.lead_names)})
            batch.absent_leads = tuple(name for name in wanted if name not in leads)
            silence = np.zeros_like(values[:, 0])
            return np.stack([leads.get(name, silence) for name in wanted], axis=1)

        # In the units of the records, since `largest` is in these too.
        batch.given = completed(batch.given.astype(np.float32))
        batch.flat = is_flat(batch.given.min(axis=-1), batch.given.max(axis=-1), batch.largest)
        batch.values = completed(batch.in_millivolts())

    def _resample(self, batch: Batch):
        rate = self.sampling_rate * self.decimation
        if batch.sampling_rate == rate:
            return
        if self._crops_are_short(batch):
            self._resample_crops(batch, rate)
            return
        values = self._round(batch.in_millivolts())
        batch.values = self._round(resample(values, batch.sampling_rate, rate, self.resample_method))
        batch.sampling_rate = rate

    def _crops_are_short(self, batch: Batch) -> bool:
        """Whether to resample crops instead of records: these are long, and no step between reads all of them."""
        if batch.crop_positions is None or not self.can_resample_crops:
            return False
        seconds = batch.values.shape[-1] / batch.sampling_rate
        return seconds > LONG_RECORD * batch.crop_positions.shape[1] * self.num_samples / self.sampling_rate

    def _resample_crops(self, batch: Batch, rate: float):
        """The steps `resample` and `windows` at once; what is left for the latter is a crop of the whole row."""
        old_rate, units, size = batch.sampling_rate, batch.units, self.num_samples * self.decimation
        last = resampled_length(batch.values.shape[-1], old_rate, rate) - size
        starts = np.floor(batch.crop_positions * (last + 1)).astype(np.int64)

        def convert(values: np.ndarray) -> np.ndarray:
            return self._round(in_millivolts(values, units))

        crops = [
            resampled_stretch(record, old_rate, rate, start, size, convert)
            for record, of_record in zip(batch.values, starts.tolist(), strict=True)
            for start in of_record
        ]
        # What the crops were cut from, by which flat ones are known.
        given_starts = (starts * (old_rate / rate)).astype(np.int64)
        batch.given = cut_windows(batch.given, given_starts, int(size * old_rate / rate))
        batch.values, batch.units, batch.sampling_rate = self._round(np.stack(crops)), None, rate
        batch.records, batch.flat, batch.largest = (
            np.repeat(rows, starts.shape[1], axis=0) for rows in (batch.records, batch.flat, batch.largest)
        )
        batch.starts = starts.reshape(-1)
        batch.crop_positions = np.zeros((len(crops), 1))

    def _filter(self, batch: Batch):
        if not any(self.bandpass or ()):
            return
        batch.values = bandpass_filter(
            batch.in_millivolts(), batch.sampling_rate, self.bandpass, self.bandpass_order, self.bandpass_fir_seconds
        )
        if self.bandpass[0] is not None:
            # Of a constant a high-pass leaves rounding errors, which a z-score would make as large as an ECG.
            batch.values[batch.flat] = 0
            batch.high_passed = True

    def _cut_windows(self, batch: Batch):
        num_records, num_leads, length = batch.values.shape
        # Larger than 1 before the step `decimate`.
        scale = round(batch.sampling_rate / self.sampling_rate)
        size = min(self.num_samples * scale, length)
        if batch.crop_positions is None:
            starts = self._window_starts(length - size, scale)[None]
        else:
            starts = np.floor(batch.crop_positions * (length - size + 1)).astype(np.int64)
        batch.flat = self._flat_windows(batch, starts, size, length)
        before = 0 if batch.starts is None else batch.starts
        batch.starts = (before + np.broadcast_to(starts, (num_records, starts.shape[1])).reshape(-1)) // scale
        batch.given = None
        batch.values = cut_windows(batch.values, starts, size)
        batch.records = np.repeat(batch.records, starts.shape[1])

    def _flat_windows(self, batch: Batch, starts: np.ndarray, size: int, length: int) -> np.ndarray:
        """(rows, leads): which leads are constant, before any filter, in the record or, where it matters, window."""
        if not self.flat_windows_matter:
            return np.repeat(batch.flat, starts.shape[1], axis=0)
        # The records may have been resampled since.
        ratio = batch.given.shape[-1] / length
        given_size = max(1, int(size * ratio))
        given_starts = np.minimum((starts * ratio).astype(np.int64), batch.given.shape[-1] - given_size)
        given = cut_windows(batch.given, given_starts, given_size)
        return is_flat(given.min(axis=-1), given.max(axis=-1), np.repeat(batch.largest, starts.shape[1]))

    def _window_starts(self, last: int, scale: int) -> np.ndarray:
        if self.num_windows is not None:
            # `unique` removes duplicate starts, for records hardly longer than a window.
            return np.unique(np.arange(self.num_windows) * (last // max(self.num_windows - 1, 1)))
        starts = np.arange(0, last + 1, (self.window_stride or self.num_samples) * scale)
        return np.append(starts, last) if self.cover_end and starts[-1] != last else starts

    def _normalize(self, batch: Batch):
        rows = self._lead_ids(batch)
        values = self._round(batch.in_millivolts())
        values -= self._per_lead("mean")[rows, None]
        values = self._round(values)
        values /= self._per_lead("std")[rows, None]
        values = self._round(values)
        if self.clip is not None:
            np.clip(values, -self.clip, self.clip, out=values)
        batch.values = values

    def _round(self, values: np.ndarray) -> np.ndarray:
        return round_to_float16(values) if self.round_to_float16 else values

    def _zscore(self, batch: Batch):
        batch.values = zscore(batch.in_millivolts(), self.zscore_per_lead, self.normalization_eps, batch.flat)
        if batch.high_passed:
            # What a window around a flat part of a filtered record holds is the filter's decay; jointly scaled leads
            # would get the mean of the others.
            batch.values[batch.flat] = 0

    def _minmax(self, batch: Batch):
        batch.values = minmax(batch.in_millivolts(), self.normalization_eps, batch.flat)

    def _decimate(self, batch: Batch):
        if self.decimation == 1:
            return
        batch.values = decimate_stacked(batch.in_millivolts(), self.decimation)
        batch.sampling_rate = self.sampling_rate

    # Output

    def _lead_ids(self, batch: Batch) -> list[int]:
        return [self.lead_names.index(name) for name in batch.lead_names]

    def _report_absent_leads(self, batch: Batch, missing_leads: str):
        absent = batch.absent_leads
        if self.lead_tokens:
            absent = [name for name in self.lead_names if name not in batch.lead_names]
        if absent and missing_leads == "error":
            raise ValueError(
                f"{batch.label} lacks the leads {' '.join(absent)}, and they cannot be computed from "
                'others. Use `missing_leads="zero"` to continue without them.'
            )
        if batch.absent_leads:
            warnings.warn(
                f"The leads {' '.join(absent)} are missing and cannot be computed from others; they are set to zero "
                "in `input_values`.",
                stacklevel=3,
            )

    def _warn_of_voltages(self, batches: list[Batch]):
        if message := small_voltages_in_words([batch.extents for batch in batches]):
            warnings.warn(message, stacklevel=3)
        if not self.removes_offsets and (message := offsets_in_words([batch.offsets for batch in batches])):
            warnings.warn(message, stacklevel=3)

    def _warn_of_limb_leads(self, batches: list[Batch]):
        """Only of whole records: training takes crops of each in every epoch, and has no time for it."""
        if set(self.lead_names).isdisjoint(LEAD_NAMES[:6]):
            return
        faults = []
        for batch in batches:
            if batch.crop_positions is None:
                found = limb_lead_faults(batch.values, batch.lead_names, batch.flat, batch.microvolts)
                faults += [fault._replace(record=int(batch.records[fault.record])) for fault in found]
        if faults:
            num_records = sum(len(batch.records) for batch in batches)
            warnings.warn(describe_limb_faults(faults, num_records), stacklevel=3)

    def _collect(
        self, batches: list[Batch], return_tensors: str | None, return_record_index: bool, return_window_starts: bool
    ) -> BatchFeature:
        if len({batch.lead_names for batch in batches}) > 1:
            raise ValueError(
                "Records with different leads cannot be in one batch of a model with lead tokens: "
                + "; ".join(f"{batch.label} has {' '.join(batch.lead_names)}" for batch in batches)
            )
        input_values = np.concatenate([self._finish(batch) for batch in batches])
        record_index = np.concatenate([batch.records for batch in batches])
        window_starts = np.concatenate([batch.starts for batch in batches])
        lengths = np.repeat([batch.values.shape[-1] for batch in batches], [len(batch.records) for batch in batches])
        if len(batches) > 1:
            order = np.argsort(record_index, kind="stable")
            input_values, record_index, lengths = input_values[order], record_index[order], lengths[order]
            window_starts = window_starts[order]
        data = {"input_values": input_values}
        if self.return_attention_mask and (lengths < self.num_samples).any():
            data["attention_mask"] = (np.arange(self.num_samples) < lengths[:, None]).astype(np.int64)
        if self.lead_tokens:
            data["lead_ids"] = np.tile(np.array(self._lead_ids(batches[0]), dtype=np.int64), (len(input_values), 1))
        if return_record_index:
            data["record_index"] = record_index
        if return_window_starts:
            data["window_starts"] = window_starts
        return BatchFeature(data, tensor_type=return_tensors)

    def _finish(self, batch: Batch) -> np.ndarray:
        """Normalised windows as float32, padded at the end and with missing leads set to zero."""
        values = batch.in_millivolts().astype(np.float32, copy=False)
        values[:, [name in batch.absent_leads for name in batch.lead_names]] = 0
        return np.pad(values, ((0, 0), (0, 0), (0, self.num_samples - values.shape[-1])))


_STEPS = {
    "leads": ECGTransformerFeatureExtractor._select_leads,
    "resample": ECGTransformerFeatureExtractor._resample,
    "bandpass": ECGTransformerFeatureExtractor._filter,
    "windows": ECGTransformerFeatureExtractor._cut_windows,
    "normalize": ECGTransformerFeatureExtractor._normalize,
    "zscore": ECGTransformerFeatureExtractor._zscore,
    "minmax": ECGTransformerFeatureExtractor._minmax,
    "decimate": ECGTransformerFeatureExtractor._decimate,
}


__all__ = ["ECGTransformerFeatureExtractor"]
