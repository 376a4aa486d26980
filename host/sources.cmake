# The files of every room, one list each; the top CMakeLists.txt makes targets of them.
set(BASE_SOURCES host/base/arena.c host/base/dtype.c host/base/error.c host/base/file.c host/base/hash.c
  host/base/json.c host/base/json_keys.c host/base/machine.c host/base/mount.c host/base/text.c)
set(CHECKPOINT_SOURCES host/checkpoint/hub_cache.c host/checkpoint/loose_weights.c host/checkpoint/model_dir.c
  host/checkpoint/model_table.c host/checkpoint/name_map.c host/checkpoint/place.c host/checkpoint/refuse.c
  host/checkpoint/safetensors_read.c host/checkpoint/safetensors_write.c host/checkpoint/shard_index.c
  host/checkpoint/sniff.c host/checkpoint/source_file.c host/checkpoint/source_memory.c)
set(RECIPE_SOURCES host/recipe/findings.c host/recipe/model_ref.c host/recipe/recipe.c host/recipe/recipe_check.c
  host/recipe/recipe_fields.c host/recipe/recipe_lookup.c host/recipe/recipe_params.c host/recipe/recipe_slices.c
  host/recipe/yaml_scalar.c host/recipe/yaml_text.c host/recipe/yaml_tree.c)
set(PLAN_SOURCES host/plan/plan.c host/plan/plan_layout.c host/plan/plan_memory.c host/plan/plan_params.c
  host/plan/plan_partition.c host/plan/plan_tensors.c)
set(CLUSTER_SOURCES host/cluster/comm_common.c host/cluster/comm_files.c host/cluster/comm_self.c
  host/cluster/comm_threads.c host/cluster/mailbox.c host/cluster/mpi_id.c host/cluster/ranks.c host/cluster/roster.c
  host/cluster/roster_guard.c host/cluster/roster_join.c host/cluster/roster_notes.c)
set(ENGINE_SOURCES host/engine/backend_cpu.c host/engine/backends.c host/engine/compute.c host/engine/engine.c
  host/engine/fence.c host/engine/group.c host/engine/journal.c host/engine/output.c host/engine/parts.c
  host/engine/pipeline.c host/engine/progress_rates.c host/engine/rank_progress.c host/engine/reader.c
  host/engine/resume.c host/engine/run_job.c host/engine/schedule.c host/engine/survey.c host/engine/survey_count.c
  host/engine/survey_drive.c
  host/engine/survey_file.c host/engine/team.c host/engine/writer.c)
set(REPORT_SOURCES host/report/card.c host/report/complete.c host/report/config_patch.c host/report/describe.c
  host/report/describe_ranks.c
  host/report/environment.c host/report/index.c host/report/inspect.c host/report/kit.c host/report/manifest.c
  host/report/methods_text.c host/report/parameters.c host/report/verify.c)
set(MEASURE_SOURCES host/measure/cases.c host/measure/ceiling_host.c host/measure/device_cpu.c host/measure/measure.c
  host/measure/roofline_svg.c host/measure/sample.c host/measure/storage.c host/measure/table.c host/measure/team.c
  host/measure/work.c)
set(API_SOURCES host/api/bench.c host/api/look.c host/api/merge.c host/api/open_models.c host/api/options.c
  host/api/parts_file.c host/api/ranks.c host/api/run.c host/api/summary.c)
set(CLI_SOURCES host/cli/completion.c host/cli/events.c host/cli/help.c host/cli/interrupt.c host/cli/main.c
  host/cli/metrics.c host/cli/options.c host/cli/parse.c host/cli/progress.c host/cli/session.c host/cli/terminal.c
  host/cli/values.c host/cli/verb_bench.c host/cli/verb_env.c host/cli/verb_help.c host/cli/verb_inspect.c
  host/cli/verb_merge.c host/cli/verb_methods.c host/cli/verb_plan.c host/cli/verb_stats.c host/cli/verb_verify.c)
set(KERNEL_SOURCES kernels/common/cpu_dispatch.c kernels/methods/linear.c kernels/methods/method_list.c
  kernels/methods/spherical.c kernels/methods/task_vector.c kernels/statistics/model_statistics.c
  kernels/statistics/statistics.c kernels/statistics/statistics_share.c)
# Compiled once per instruction set; WM_ISA names the suffix of their symbols.
set(KERNEL_ISA_SOURCES kernels/convert/convert_cpu.c kernels/elementwise/elementwise_cpu.c
  kernels/statistics/model_statistics_cpu.c kernels/statistics/select_kth_cpu.c kernels/statistics/select_small_cpu.c
  kernels/statistics/statistics_cpu.c)
