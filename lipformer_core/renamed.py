"""Settings of earlier versions, which were flat: where each is now, or why it is none any more."""

_NOW = """
crop_size = data.size
correct_offset = data.correct_offset
val_persons = data.val_persons
test_persons = data.test_persons
list_rows = data.list_rows
data_seed = data.synthetic.seed
synthetic_train = the first of data.synthetic.persons
synthetic_val = the second of data.synthetic.persons
synthetic_test = the third of data.synthetic.persons
synthetic_frames = the first of data.synthetic.frames
synthetic_test_frames = the second of data.synthetic.frames
synthetic_size = data.synthetic.size
base_width width_multipliers = in codebook.widths
res_blocks = codebook.res_blocks
attention norm = codebook.local
stem_stride = codebook.stem
codebook_size = codebook.size
code_dim = codebook.dim
shared_codebook = codebook.shared
prevent_collapse = stage1.prevent_collapse
stage1_steps = stage1.steps
stage1_batch = stage1.batch
stage1_lr = stage1.lr
mouth_weight = stage1.mouth_weight
perceptual = stage1.perceptual
perceptual_weight = stage1.perceptual_weight
adversarial_weight = stage1.adversarial_weight
augment_colour augment_geometry = stage1.augment
augment_mirror = stage1.mirror
reference = lips.reference
warping query_source scale_attention = lips.ablation
model_dim = lips.width
layers = lips.layers
ffn_dim = lips.ffn_width
audio_dim = lips.audio_width
audio_window = audio.window
mean_normalise_audio = audio.mean_normalise
speech_encoder = audio.speech_encoder
looks = stage2.looks
pose_twin = stage2.pose_twins
silent_closed = stage2.silence
articulation_weight lip_reading_weight = stage2.lip_supervision
warp_steps listen_steps = stage2.apart.steps
cached_steps = stage2.cached.steps
cached_batch = stage2.cached.batch
stage2_lr = stage2.cached.lr
joint_steps = stage2.joint.steps
joint_batch = stage2.joint.batch
joint_lr = stage2.joint.lr
joint_perceptual_weight = stage2.joint.perceptual_weight
joint_adversarial_weight = stage2.joint.adversarial_weight
joint_sync_weight = stage2.joint.sync_weight
sync_width = sync.width
sync_steps = sync.steps
sync_batch = sync.batch
sync_lr = sync.lr
accumulate = optimiser.accumulate
weight_average = optimiser.weight_average
precision = engine.precision
compile = engine.compile
deterministic = engine.deterministic
workers = engine.workers
eval_every save_every = engine.check_every
"""
_GONE = """
expected_codes lips.expected_codes = the mean of the likeliest codes is decoded; lips.ablation=mean_codes is of all
audio_neighbours audio_gain = it changed nothing, or made it worse (papermill_runs/README.md)
audio_noise normalise_codes reference_mouth_dropout = it changed nothing, or made it worse (papermill_runs/README.md)
codebook_init codebook_warmup revive_dead_codes = stage1.prevent_collapse is all three
codebook_update codebook_decay = codes learn by Eq. 3 alone
residual_head free_logits = lips.design=ours has it, lips.design=paper has not
position_embedding self_attention warp_corners = lips.design=ours has it, lips.design=paper has not
min_eye_distance min_sharpness max_yaw max_other_face = see data.quality_gate and data/prepared/quality.py
min_run min_face_share min_speech max_offset = see data.quality_gate and data/prepared/quality.py
heads = lips.width over HEAD_WIDTH of config.py
transform_sigma = a constant in data/faces/alignment.py
detect_every = every picture is looked at
image_format = crops are JPEG files
jpeg_quality clip_frames = a constant in data/prepared/extraction.py
shard_megabytes = a constant in data/prepared/prepare.py
beta = a constant in model/codebook.py
adversarial_start eval_images = a constant in training/codebook.py
l1_weight vq_weight image_weight = its weight is 1
cross_entropy_weight warp_landmark_weight warp_feature_weight sync_articulation_weight = its weight is 1
warp_max_shift = F_d bounds it by itself (model/warping.py)
discriminator_width = follows from codebook.widths
speech_dropout = a constant in training/pairs.py
warp_lr decoder_lr gumbel_tau_start gumbel_tau_end weight_decay = a constant in training/lipformer.py
latent_weight warp_supervision mouth_token_weight changed_token_weight = a constant in training/objectives.py
warp_width = half of lips.width
sync_frames sync_audio_window = a constant in model/syncnet.py
sync_dim = four times sync.width
sync_max_shift sync_colour sync_geometry sync_gain sync_noise = a constant in training/sync_sampling.py
warmup_steps grad_clip log_every keep_checkpoints = a constant in training/loop.py
resident = a GPU keeps what fits in its memory by itself
"""


def _names(table: str, words: str) -> dict[str, str]:
    rows = [line.split(" = ", 1) for line in table.strip().splitlines()]
    return {name: words.format(text) for names, text in rows for name in names.split()}


RENAMED = _names(_NOW, "it is {} now") | _names(_GONE, "{}")
