"""The parts of the Kubernetes (batch/v1, v1), Kubeflow (v2beta1) and Compose schemas that our manifests use.

What lives here: which keys there are and what they hold, from the API references of Kubernetes 1.33, of the MPI
operator (pkg/apis/kubeflow/v2beta1/types.go) and from the Compose specification. A key that we do not use is left out
on purpose: using it means looking it up and adding it here. What it must not know: which values warpmerge wants.
"""

from schema import (ABSOLUTE, BOOL, COUNT, DNS_NAME, POSITIVE, QUANTITY, STRING, ascending, exactly_one, list_of,
                    map_of, matching, obj, one_of)

META = obj({"name": DNS_NAME}, labels=map_of(STRING), annotations=map_of(STRING), namespace=DNS_NAME)
POD_META = obj(labels=map_of(STRING), annotations=map_of(STRING))

ENV = exactly_one(("value", "valueFrom"), obj(
    {"name": matching(r"[A-Za-z_][A-Za-z0-9_]*", "a variable's name")}, value=STRING,
    valueFrom=obj({"fieldRef": obj({"fieldPath": matching(
        r"metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])|spec\.nodeName|status\.podIP",
        "a field of the downward API")})})))

CONTAINER = obj(
    {"name": DNS_NAME, "image": matching(r"[a-z0-9./-]+(:\d+)?(/[a-z0-9./_-]+)*:[\w.-]+(@sha256:[0-9a-f]{64})?",
                                         "an image with a tag")},
    command=list_of(STRING), args=list_of(STRING), env=list_of(ENV), workingDir=ABSOLUTE,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    resources=obj(requests=map_of(QUANTITY), limits=map_of(QUANTITY)),
    securityContext=obj(allowPrivilegeEscalation=BOOL, readOnlyRootFilesystem=BOOL, runAsNonRoot=BOOL, runAsUser=COUNT,
                        runAsGroup=COUNT, privileged=BOOL,
                        capabilities=obj(drop=list_of(STRING), add=list_of(STRING))),
    volumeMounts=list_of(obj({"name": DNS_NAME, "mountPath": ABSOLUTE}, readOnly=BOOL, subPath=STRING)))

VOLUME = exactly_one(("persistentVolumeClaim", "emptyDir", "hostPath", "configMap"), obj(
    {"name": DNS_NAME}, persistentVolumeClaim=obj({"claimName": DNS_NAME}, readOnly=BOOL),
    emptyDir=obj(sizeLimit=QUANTITY, medium=one_of("", "Memory")), hostPath=obj({"path": ABSOLUTE}, type=STRING),
    configMap=obj({"name": DNS_NAME})))

POD_SPEC = obj(
    {"containers": list_of(CONTAINER)}, restartPolicy=one_of("Never", "OnFailure", "Always"), volumes=list_of(VOLUME),
    automountServiceAccountToken=BOOL, enableServiceLinks=BOOL, terminationGracePeriodSeconds=COUNT,
    nodeSelector=map_of(STRING), priorityClassName=DNS_NAME,
    securityContext=obj(runAsNonRoot=BOOL, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT,
                        fsGroupChangePolicy=one_of("OnRootMismatch", "Always"),
                        seccompProfile=obj({"type": one_of("RuntimeDefault", "Localhost", "Unconfined")})))

POD_TEMPLATE = obj({"spec": POD_SPEC}, metadata=POD_META)

FAILURE_RULE = exactly_one(("onExitCodes", "onPodConditions"), obj(
    {"action": one_of("FailJob", "FailIndex", "Ignore", "Count")},
    onExitCodes=obj({"operator": one_of("In", "NotIn"), "values": ascending(COUNT)}, containerName=DNS_NAME),
    onPodConditions=list_of(obj({"type": STRING, "status": one_of("True", "False", "Unknown")}))))

JOB = obj(
    {"apiVersion": one_of("batch/v1"), "kind": one_of("Job"), "metadata": META, "spec": obj(
        {"template": POD_TEMPLATE}, completionMode=one_of("NonIndexed", "Indexed"), completions=POSITIVE,
        parallelism=COUNT, backoffLimit=COUNT, backoffLimitPerIndex=COUNT, maxFailedIndexes=COUNT,
        activeDeadlineSeconds=POSITIVE, ttlSecondsAfterFinished=COUNT, suspend=BOOL,
        podReplacementPolicy=one_of("TerminatingOrFailed", "Failed"),
        podFailurePolicy=obj({"rules": list_of(FAILURE_RULE)}))})

PVC = obj(
    {"apiVersion": one_of("v1"), "kind": one_of("PersistentVolumeClaim"), "metadata": META, "spec": obj(
        {"accessModes": list_of(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
         "resources": obj({"requests": obj({"storage": QUANTITY})})}, storageClassName=STRING, volumeName=STRING)})

REPLICA = obj({"template": POD_TEMPLATE}, replicas=POSITIVE, restartPolicy=one_of("Never", "OnFailure", "Always"))
MPI_JOB = obj(
    {"apiVersion": one_of("kubeflow.org/v2beta1"), "kind": one_of("MPIJob"), "metadata": META, "spec": obj(
        {"mpiReplicaSpecs": obj({"Launcher": REPLICA, "Worker": REPLICA})}, slotsPerWorker=POSITIVE,
        runLauncherAsWorker=BOOL, sshAuthMountPath=ABSOLUTE, mpiImplementation=one_of("OpenMPI", "Intel", "MPICH"),
        launcherCreationPolicy=one_of("AtStartup", "WaitForWorkersReady"),
        runPolicy=obj(cleanPodPolicy=one_of("None", "Running", "All"), ttlSecondsAfterFinished=COUNT,
                      activeDeadlineSeconds=POSITIVE, backoffLimit=COUNT, suspend=BOOL))})

KINDS = {"Job": JOB, "PersistentVolumeClaim": PVC, "MPIJob": MPI_JOB}

DEVICE = exactly_one(("count", "device_ids"), obj(
    {"capabilities": list_of(STRING)}, driver=STRING, count=one_of("all", 1, 2, 4, 8), device_ids=list_of(STRING)))
SERVICE = obj(
    {"image": STRING, "command": list_of(STRING)},
    build=obj({"context": STRING, "dockerfile": STRING}, args=map_of(STRING), target=STRING),
    profiles=list_of(STRING), user=STRING, entrypoint=list_of(STRING), environment=map_of(STRING), read_only=BOOL,
    volumes=list_of(obj({"type": one_of("bind", "volume", "tmpfs"), "target": ABSOLUTE}, source=STRING, read_only=BOOL,
                        bind=obj(create_host_path=BOOL))),
    tmpfs=list_of(ABSOLUTE), cap_drop=list_of(STRING), security_opt=list_of(STRING), stop_grace_period=STRING,
    network_mode=one_of("none", "host", "bridge"), ipc=one_of("host", "private", "shareable"), mem_limit=STRING,
    restart=one_of("no", "on-failure", "always", "unless-stopped"), init=BOOL,
    deploy=obj(resources=obj(reservations=obj(devices=list_of(DEVICE)))))


def compose(value, path):
    """A Compose file; keys that begin with x- are for anchors."""
    if not isinstance(value, dict):
        return [f"{path}: not a mapping"]
    plain = {k: v for k, v in value.items() if not str(k).startswith("x-")}
    return obj({"services": map_of(SERVICE, DNS_NAME)}, name=DNS_NAME)(plain, path)
