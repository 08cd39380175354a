"""Settings of other trainers by the names that they have there, and what sets the same in phiv.

    >>> find_setting("max_samples", {"max_train_rows"}), find_setting("max_samples", {"limit"})
    ('--max_train_rows N', '--limit N')

The common ones of transformers' Trainer, TRL, ms-swift, LLaMA-Factory and axolotl.
"""

from __future__ import annotations

from collections.abc import Container

# phiv's setting: names elsewhere. The first one that a command has counts.
_TABLE = """
--learning_rate X: lr
--part_learning_rates PART=X: vit_lr vision_lr vision_tower_lr aligner_lr projector_lr mm_projector_lr merger_lr
--batch_size_per_gpu N; --batch_size N is the number of rows per step over all processes: \
per_device_train_batch_size micro_batch_size train_batch_size
--batch_size N, the rows per step over all processes; accumulation follows from it: gradient_accumulation_steps
--eval_batch_size N: per_device_eval_batch_size
--max_length N: max_seq_length max_seq_len sequence_len cutoff_len cutoff_length model_max_length
--num_train_epochs N: epochs num_epochs
--warmup_steps N (by default a tenth of the steps, at most 50): warmup_ratio
--lr_scheduler NAME: lr_scheduler_type
--wd X: weight_decay
--max_grad_norm X: gradient_clipping max_norm
--precision float16 (without --bf16 the default on a GPU): fp16
--precision NAME: torch_dtype dtype
--save_steps N, or 0 to save at the end only: save_strategy
--logging_steps N: logging_strategy
--no_eval to switch it off; else phiv evaluates before and after training: \
eval_strategy evaluation_strategy do_eval eval_steps
--eval_data_dir DIR, --eval_split NAME: val_dataset eval_dataset test_datasets dataset_test_split
phiv-convert --val_fraction X: val_size val_set_size split_dataset_ratio
--data_dir DIR, a folder that phiv-convert made: dataset datasets dataset_name dataset_dir data_path train_file data
--train_split NAME: dataset_train_split split
--max_train_rows N: max_samples max_train_samples
--max_eval_rows N: max_eval_samples
--model_name_or_path NAME: model model_id model_name base_model model_id_or_path
--model_name_or_path DIR, with the folder that `hf download ID --revision REV --local-dir DIR` makes: \
revision model_revision
--use_lora, or --use_qlora for 4 bit: adapter finetuning_type train_type tuner_type use_peft lora_enable
--use_qlora: load_in_4bit quantization_bit quant_bits quantization_method bits double_quant
--lora_rank N: lora_r
--lora_parts NAME: lora_target lora_target_modules target_modules
--freeze vision: freeze_vit freeze_vision_tower
--freeze projector: freeze_aligner freeze_multi_modal_projector
--freeze language: freeze_llm freeze_language_model
--use_flash_attention: attn_implementation attn_impl flash_attn flash_attention use_flash_attn
--distributed zero2: deepspeed
--distributed fsdp2: fsdp fsdp_config
--packing, which is on by default: sample_packing neat_packing padding_free group_by_length
--num_workers N: dataloader_num_workers
--output_dir DIR: output out_dir
--output_dir DIR, in which the logs are too: logging_dir
--resume DIR (by default the newest checkpoint in --output_dir): resume_from_checkpoint
--resume never: overwrite_output_dir
--no_tqdm: disable_tqdm
--num_crops N: max_pixels image_max_pixels
--limit N: max_samples max_eval_samples max_eval_rows
--batch_size N: per_device_eval_batch_size eval_batch_size
--split NAME: eval_split dataset_test_split
--output FILE: output_dir out_dir
"""
_ROWS = [line.rpartition(": ") for line in _TABLE.strip().splitlines()]


def find_setting(name: str, settings: Container[str]) -> str | None:
    """What sets in phiv what `name` sets elsewhere, for a command with these `settings`; None for its own."""
    if name in settings:
        return None
    for setting, _, names in _ROWS:
        own = setting.partition(" ")[0].strip("-,;").removeprefix("no_")
        if name in names.split() and (own in settings or own == "phiv-convert"):
            return setting
    return None
