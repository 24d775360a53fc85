# Lines of the library without which a device test fails: what keeps asynchronous work in order, and
# memory alive until it is done.
include(TsInferMutants)
ts_infer_mutants_of(device/device_call.cpp)
ts_infer_mutant(
  finish_waits "  guard_.current_stream().synchronize();"
  DeviceTest.HostInputsComeBackToTheHostAfterOneWait
)
ts_infer_mutant(
  errors_wait "    guard_.current_stream().synchronize();"
  DeviceTest.ErrorsLeaveNoCopyBehindThatReadsTheInputs
)
ts_infer_mutant(
  host_outputs_wait "  must_wait_ = must_wait_ || destination.is_cpu();"
  DeviceTest.DeviceInputsCanSendOutputsToTheHost
)
ts_infer_mutant(
  staging_is_held "  held_.push_back(source);"
  DeviceCopiesTest.StagingIsHeldUntilTheCopyHasRun
)
ts_infer_mutant(
  receiving_memory_is_held
  "  held_.push_back(result);  // an error may drop it before the copy is done"
  DeviceCopiesTest.AFailedCallLetsNoCopyWriteToMemoryThatIsFree
)
ts_infer_mutant(
  state_follows_the_caller
  "    if (is_apart()) wait_for(callers_stream_, guard_.current_stream());"
  DeviceTest.StatefulCallsReadInputsThatAreMadeLate
)
ts_infer_mutant(
  caller_follows_the_state
  "    if (is_apart()) wait_for(guard_.current_stream(), callers_stream_);"
  DeviceStreamsTest.TheCallersStreamWaitsForThatOfAStatefulModel
)
ts_infer_mutant(
  inputs_are_recorded
  "        if (leaf.isTensor()) keep_for(leaf.toTensor(), guard_.current_stream());"
  DeviceTest.InputsMayBeDroppedWhileTheGivenStreamReadsThem
)
ts_infer_mutant(
  outputs_are_recorded "  if (is_apart()) keep_for(tensor, callers_stream_);"
  DeviceTest.OutputsLeftOnTheDeviceAreSafeOnTheCallersStream
)
ts_infer_mutant(
  buffers_wait_for_readers "      wait_for(callers_stream_, guard_.current_stream());"
  DeviceTest.DeviceBuffersAreNotWrittenBeforeTheirReaders
)
ts_infer_mutant(
  buffers_are_recorded "      keep_for(destination, guard_.current_stream());"
  DeviceCopiesTest.DeviceBuffersMayBeDroppedWhileTheGivenStreamWritesThem
)
ts_infer_mutants_of(model.cpp)
ts_infer_mutant(
  load_waits
  "    if (impl->stream) impl->stream->stream().synchronize();  // calls may run on others"
  DeviceTest.LoadHasFinishedOnTheDeviceWhenItReturns
)
ts_infer_mutant(
  clone_waits_for_the_state "  if (stream) stream->stream().synchronize();"
  DeviceStreamsTest.ClonesWaitForTheStateThatTheyCopy
)
ts_infer_mutant(
  clone_waits "  if (on) on->stream().synchronize();"
  DeviceTest.ClonesAreFinishedWhenTheyAreReturned
)
ts_infer_mutant(
  weights_outlive_their_readers "    synchronize(device);"
  DeviceTest.WeightsOutliveTheModelWhileAStreamReadsThem
)
ts_infer_mutants_of(device/streams.cpp)
ts_infer_mutant(
  streams_have_one_holder
  "    free.streams.erase(free.streams.begin() + static_cast<std::ptrdiff_t>(i));"
  DeviceStreamsTest.ThreadsAtOnceUseTwoStreams
)
ts_infer_mutant(
  streams_come_back "  if (stream_) give_back(*stream_);"
  DeviceStreamsTest.ThreadsOneAfterTheOtherUseTheSameStream
)
ts_infer_mutant(
  scopes_end "  device_ = device;"
  DeviceStreamsTest.ScopeGivesTheThreadsStreamBackAtItsEnd
)
ts_infer_mutants_of(device/call_graphs.cpp)
ts_infer_mutant(
  replays_wait "  copied_.block(stream);" DeviceGraphsTest.CallsOnSeveralStreamsTakeTurnsOnTheDevice
)
ts_infer_mutant(
  replays_are_waited_for "  copied_.record(stream);"
  DeviceGraphsTest.CallsOnSeveralStreamsTakeTurnsOnTheDevice
)
ts_infer_mutant(
  replays_read_the_inputs
  "    recorded->inputs[i].copy_(inputs[i].toTensor(), /*non_blocking=*/true);"
  DeviceGraphsTest.ReplaysEachDeclaredSizeWithTheInputsOfTheCall
)
