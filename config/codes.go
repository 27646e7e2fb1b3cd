package config

import (
	"slices"
	"strings"
)

// Code names a sort of finding. IST codes are Istio's, used where the meaning is the
// same, so that scripts and habits carry over; WEIR codes are ours.
type Code string

// The codes. What each means is in the table below.
const (
	Deprecated              Code = "IST0002"
	ReferenceNotFound       Code = "IST0101"
	NotInjected             Code = "IST0102"
	PodMissingProxy         Code = "IST0103"
	SchemaError             Code = "IST0106"
	MultipleInjection       Code = "IST0123"
	ConflictingMeshHosts    Code = "IST0109"
	ConflictingSidecars     Code = "IST0110"
	MultipleSidecars        Code = "IST0111"
	PortSelectorRequired    Code = "IST0112"
	DeploymentManyServices  Code = "IST0116"
	PortNameConvention      Code = "IST0118"
	MisplacedAnnotation     Code = "IST0107"
	UnknownAnnotation       Code = "IST0108"
	InvalidAnnotation       Code = "IST0125"
	UnknownRegistry         Code = "IST0126"
	NoMatchingWorkloads     Code = "IST0127"
	DeprecatedAnnotation    Code = "IST0135"
	InvalidApplicationUID   Code = "IST0144"
	NoServerVerification    Code = "IST0128"
	NoServerVerificationPt  Code = "IST0129"
	UnreachableRule         Code = "IST0130"
	IneffectiveMatch        Code = "IST0131"
	HostNotInGateway        Code = "IST0132"
	SchemaWarning           Code = "IST0133"
	AddressesRequired       Code = "IST0134"
	DeploymentPortConflict  Code = "IST0137"
	DuplicateCertificate    Code = "IST0138"
	InvalidWebhook          Code = "IST0139"
	ConflictingGateways     Code = "IST0145"
	AutoImageWarning        Code = "IST0146"
	AutoImageError          Code = "IST0147"
	ClaimsWithoutTokens     Code = "IST0149"
	ProxyImageMismatch      Code = "IST0158"
	InvalidCredential       Code = "IST0161"
	GatewayPortNotOnService Code = "IST0162"
	SubsetSelectsNothing    Code = "IST0173"
	UnknownRuleHost         Code = "IST0174"

	Unreadable             Code = "WEIR0001"
	SyntaxError            Code = "WEIR0002"
	LimitExceeded          Code = "WEIR0003"
	NotAnObject            Code = "WEIR0004"
	Duplicate              Code = "WEIR0005"
	BadMetadata            Code = "WEIR0006"
	UnknownKind            Code = "WEIR0007"
	KindNotEnforced        Code = "WEIR0008"
	KindNotUsed            Code = "WEIR0009"
	FieldNotEnforced       Code = "WEIR0010"
	FieldNotEnforcedUnsafe Code = "WEIR0011"
	LastGoodServed         Code = "WEIR0012"
	FailClosed             Code = "WEIR0013"
	LimitsNothing          Code = "WEIR0014"
	GatewaysOnly           Code = "WEIR0015"
	LegacyConverted        Code = "WEIR0016"
	LegacyClosed           Code = "WEIR0017"
	PathsAsTheyCome        Code = "WEIR0018"

	ServiceWithoutEndpoints Code = "WEIR0101"
	DefaultServiceAccount   Code = "WEIR0102"
	ContradictingTLS        Code = "WEIR0103"
	AddressTaken            Code = "WEIR0104"
	HostDefinedTwice        Code = "WEIR0105"
	RuleIgnored             Code = "WEIR0106"
	AddressesExhausted      Code = "WEIR0107"
	SetAside                Code = "WEIR0108"
	ImportsNothing          Code = "WEIR0109"
	NotDiscovered           Code = "WEIR0110"
	AuthorityEnds           Code = "WEIR0111"
	AuthorityUnusable       Code = "WEIR0112"
	PlaintextProxy          Code = "WEIR0113"
	AuthorityChanges        Code = "WEIR0114"
	IdentityHorizon         Code = "WEIR0115"
	KeysUnreachable         Code = "WEIR0116"
	ProxyVersion            Code = "WEIR0117"
	WatchSilent             Code = "WEIR0118"
	AsksForNobody           Code = "WEIR0119"
	ClusterAway             Code = "WEIR0120"
	ClockJumped             Code = "WEIR0121"
	TooManySeries           Code = "WEIR0122"
	RootStillNeeded         Code = "WEIR0123"
	AlwaysChanging          Code = "WEIR0124"
	WouldRefuse             Code = "WEIR0127"
	CertificateEnds         Code = "WEIR0133"
	NodeAgentAway           Code = "WEIR0137"
	ReplicaAway             Code = "WEIR0138"
	InjectorAway            Code = "WEIR0139"
	LeaderAway              Code = "WEIR0140"

	ImageNotRunnable  Code = "WEIR0201"
	ValueNotAvailable Code = "WEIR0202"
	NoLocalEffect     Code = "WEIR0203"

	InjectionRefused      Code = "WEIR0301"
	NotInjectable         Code = "WEIR0302"
	AnnotationNotEnforced Code = "WEIR0303"
	PodSecurityForbids    Code = "WEIR0304"
	ProxyPortTaken        Code = "WEIR0305"
	ProbeNotRewritten     Code = "WEIR0306"
	BeforeProxy           Code = "WEIR0307"
	JobMayNotEnd          Code = "WEIR0308"
	HandWrittenProxy      Code = "WEIR0309"
	InjectorSetting       Code = "WEIR0310"
	TrafficNotCaptured    Code = "WEIR0311"
)

// CodeInfo explains a code.
type CodeInfo struct {
	Code        Code
	Severity    Severity
	Title       string // Istio's name of the message for its codes
	Explanation string // for the documentation and `weir analyze --explain`
}

// Docs is where the documentation tells of the code.
func (c *CodeInfo) Docs() string {
	return "docs/findings.md#" + strings.ToLower(string(c.Code)+"-"+c.Title)
}

// Codes lists every code, in order.
func Codes() []CodeInfo { return slices.Clone(codes) }

// Explain finds the entry of a code.
func Explain(c Code) (CodeInfo, bool) {
	for i := range codes {
		if codes[i].Code == c {
			return codes[i], true
		}
	}
	return CodeInfo{}, false
}

var codes = []CodeInfo{
	{Deprecated, Warning, "Deprecated", "The field still works but will be removed from Istio's API; the hint names its successor."},
	{ReferenceNotFound, Error, "ReferencedResourceNotFound", "The object names a host, subset, gateway, selector, Secret, ConfigMap or ServiceAccount that does not exist. Requests that depend on it fail."},
	{NotInjected, Info, "NamespaceNotInjected", "Nothing that runs in the namespace has a proxy, and no label of it says whether that is meant to be so."},
	{PodMissingProxy, Warning, "PodMissingProxy", "Pods run without a proxy in a namespace whose pods get one, or although a label of their own asks for one. What they send and receive is not encrypted by the mesh, and no policy is asked."},
	{SchemaError, Error, "SchemaValidationError", "A field is unknown, has the wrong type, or its value is not allowed. The object is quarantined: its last good version stays in force."},
	{MisplacedAnnotation, Warning, "MisplacedAnnotation", "The annotation has an effect on another kind of object, or on a pod template, and none here."},
	{UnknownAnnotation, Warning, "UnknownAnnotation", "The annotation is in a domain of Istio's, which does not have it. It has no effect."},
	{ConflictingMeshHosts, Error, "ConflictingMeshGatewayVirtualServiceHosts", "Several VirtualServices define the same host for sidecars. Only the oldest one is used; the others are ignored for that host."},
	{ConflictingSidecars, Error, "ConflictingSidecarWorkloadSelectors", "Workloads are selected by several Sidecars. The oldest one is used for them."},
	{MultipleSidecars, Error, "MultipleSidecarsWithoutWorkloadSelectors", "A namespace has several Sidecars without workloadSelector. Only the oldest one is used."},
	{PortSelectorRequired, Error, "VirtualServiceDestinationPortSelectorRequired", "The destination service has several ports, so destination.port.number must say which one."},
	{DeploymentManyServices, Warning, "DeploymentAssociatedToMultipleServices", "Services that select the same Deployment use one port with different protocols; only one of them can be right."},
	{PortNameConvention, Info, "PortNameIsNotUnderNamingConvention", "The port neither has appProtocol nor a name that begins with a protocol, so its protocol is detected on every connection. Name it <protocol>[-suffix] or set appProtocol."},
	{MultipleInjection, Warning, "NamespaceMultipleInjectionLabels", "The namespace has the labels istio-injection and istio.io/rev. The first one counts; who reads the other is misled."},
	{InvalidAnnotation, Warning, "InvalidAnnotation", "The value of an annotation is not one it can have. The injector refuses pods with it; where the annotation is to say whether a pod gets a proxy, the pod gets none."},
	{UnknownRegistry, Warning, "UnknownMeshNetworksServiceRegistry", "MeshNetworks names a cluster that the control plane does not know. One cluster is served, the one of --cluster-id. In Istio that is an error; here networks are not enforced, and the rest of the object is in force."},
	{NoMatchingWorkloads, Warning, "NoMatchingWorkloadsFound", "The selector of a policy matches no workload: the policy protects nothing."},
	{NoServerVerification, Warning, "NoServerCertificateVerificationDestinationLevel", "TLS to the host is encrypted but the server's certificate is not verified, because no CA certificates are given."},
	{NoServerVerificationPt, Warning, "NoServerCertificateVerificationPortLevel", "TLS to a port of the host is encrypted but the server's certificate is not verified, because no CA certificates are given."},
	{UnreachableRule, Warning, "VirtualServiceUnreachableRule", "An earlier rule matches everything this rule matches, so it is never used."},
	{IneffectiveMatch, Info, "VirtualServiceIneffectiveMatch", "A match of a rule repeats an earlier one; it has no effect."},
	{HostNotInGateway, Warning, "VirtualServiceHostNotFoundInGateway", "The VirtualService is bound to a Gateway that does not accept its host."},
	{SchemaWarning, Warning, "SchemaWarning", "The object is valid, but probably does not do what was meant."},
	{AddressesRequired, Warning, "ServiceEntryAddressesRequired", "A TCP port of a ServiceEntry without addresses receives the traffic of every address on that port."},
	{DeprecatedAnnotation, Info, "DeprecatedAnnotation", "The annotation still works but will be removed by Istio; the hint names its successor."},
	{DeploymentPortConflict, Warning, "DeploymentConflictingPorts", "Two Services map the same service port number to different target ports of one Deployment."},
	{DuplicateCertificate, Warning, "GatewayDuplicateCertificate", "Two Gateways for the same proxies use one certificate for different hosts. Browsers send requests for all hosts of a certificate on one HTTP/2 connection, which belongs to the Gateway whose host it was opened for: those for hosts of the other get a 404."},
	{InvalidWebhook, Error, "InvalidWebhook", "A webhook of the mesh leads to a Service that there is not, as of a revision that was taken away; or the API server has nothing to know by who answers; or two that lead to different control planes are asked about the same pods, which get two proxies. Pods that nobody answers for are refused, or start without a proxy where failurePolicy is Ignore."},
	{InvalidApplicationUID, Warning, "InvalidApplicationUID", "A container runs as the user or group of the proxy (1337), whose traffic is not captured: what it sends goes past the mesh."},
	{ConflictingGateways, Error, "ConflictingGateways", "Two Gateways for the same proxies open one port with overlapping hosts; only the oldest is used."},
	{AutoImageWarning, Warning, "ImageAutoWithoutInjectionWarning", "A container has the image 'auto', which the injector would replace, and no injector is asked about these pods: they will not start."},
	{AutoImageError, Error, "ImageAutoWithoutInjectionError", "A container of the pod has the image 'auto', which the injector replaces, and it did not: no injector was asked about this pod. It cannot start."},
	{ClaimsWithoutTokens, Error, "JwtClaimBasedRoutingWithoutRequestAuthN", "A VirtualService routes by claims of tokens at a Gateway whose proxies verify no tokens, because no RequestAuthentication selects them: no request has claims, and the rule never matches."},
	{ProxyImageMismatch, Warning, "PodsIstioProxyImageMismatchInNamespace", "Pods of the namespace run proxies of another image than the injector gives to new ones, as before a restart after an upgrade. Pods whose image is said by themselves (sidecar.istio.io/proxyImage) are not meant."},
	{InvalidCredential, Error, "InvalidGatewayCredential", "The Secret a Gateway names does not hold a usable certificate and key."},
	{GatewayPortNotOnService, Warning, "GatewayPortNotDefinedOnService", "The Gateway opens a port that the Service of the gateway proxies does not offer: it cannot be reached through the Service."},
	{SubsetSelectsNothing, Error, "DestinationRuleSubsetNotSelectPods", "No endpoint of the host has the labels of the subset. Requests routed to it fail."},
	{UnknownRuleHost, Warning, "UnknownDestinationRuleHost", "The DestinationRule's host is not known, so the rule has no effect."},

	{Unreadable, Error, "FileUnreadable", "A file or folder cannot be read. What it said before stays in force."},
	{SyntaxError, Error, "SyntaxError", "A document is not well-formed YAML or JSON. The objects the file defined before and that cannot be found in it now stay in force as they were."},
	{LimitExceeded, Error, "LimitExceeded", "A file or document is larger, deeper or expands to more than the stated limit. It is refused as a whole."},
	{NotAnObject, Error, "NotAnObject", "The document is not a Kubernetes-style object: it needs apiVersion, kind and metadata.name."},
	{Duplicate, Error, "DuplicateObject", "The same object is defined twice. The first one, in the order the files were named, is used."},
	{BadMetadata, Error, "InvalidMetadata", "Name, namespace, labels or annotations of the object are not allowed by Kubernetes."},
	{UnknownKind, Error, "UnknownKind", "The kind, or this apiVersion of it, does not exist in an API group that Weir knows. The object is not used."},
	{KindNotEnforced, Error, "KindNotEnforced", "The object asks for something this version does not enforce. It has no effect; do not rely on it."},
	{KindNotUsed, Info, "KindNotUsed", "The object is not part of the mesh's configuration and is left alone."},
	{FieldNotEnforced, Warning, "FieldNotEnforced", "The field is understood but has no effect in this version. The rest of the object is in force."},
	{FieldNotEnforcedUnsafe, Error, "UnsafeFieldNotEnforced", "The field is not enforced in this version, and ignoring it would weaken security or send traffic elsewhere. The object is quarantined."},
	{LastGoodServed, Error, "LastGoodServed", "The file that defined the object cannot be read completely; the object stays in force as it was until the file is repaired."},
	{FailClosed, Error, "FailClosed", "The object has errors, no earlier version of it is in force, and it asks for security, which its errors must not take away. Until it is repaired the host of a DestinationRule is called with the TLS settings it gives, and where those are what cannot be read or given, not at all: requests get a 503 whose cause names the object. The workloads of a PeerAuthentication accept nothing but mesh mTLS, unless it says something else that can be read; so does the whole namespace if its selector cannot be read."},
	{LimitsNothing, Warning, "LimitsNothing", "The Sidecar has errors, and no earlier version of it is in force: until it is repaired its workloads see and reach what they do without it, that is what another Sidecar or exportTo leaves them. To show them nothing instead would cut off a namespace for a misspelt word; a Sidecar limits what proxies hold and is no access control, which is what AuthorizationPolicy and PeerAuthentication at the destination are for."},
	{GatewaysOnly, Info, "CredentialForGatewaysOnly", "credentialName of a DestinationRule without workloadSelector is for gateways, as in Istio: they find the Secret in their own namespace. Sidecars are not given it, and since nobody is called with less than the rule asks for, what they send to the host themselves gets a 503 whose cause names the rule. Nothing is amiss where they reach the host by an egress gateway; otherwise select them, and put the Secret into their namespace."},

	{LegacyConverted, Info, "LegacyConverted", "The object is of Istio before 1.5. It is in force, by what it comes to as AuthorizationPolicy, PeerAuthentication or RequestAuthentication; docs/authorization.md says how. Istio itself reads such objects no more."},
	{LegacyClosed, Error, "LegacyClosed", "Part of an object of Istio before 1.5 cannot be said exactly in terms of workloads. Where it would let in more than it says, less is let in."},
	{PathsAsTheyCome, Warning, "PathsAsTheyCome", "MeshConfig asks for pathNormalization NONE: proxies compare and pass on paths as clients write them. Programs resolve dot segments and slashes in several ways, and a request that an AuthorizationPolicy denies by its path can be written so that the policy does not see it and the program does."},

	{ServiceWithoutEndpoints, Warning, "ServiceWithoutEndpoints", "Nothing serves the Service: no workload has the labels of its selector, or none has the port. Requests to it fail."},
	{DefaultServiceAccount, Info, "DefaultServiceAccount", "The Deployment runs as the service account 'default' and so shares its identity with every other such workload in the namespace."},
	{ContradictingTLS, Error, "ContradictingTLS", "Clients are told to speak one thing (DestinationRule) and servers to accept only another (PeerAuthentication). Requests fail, but where the message says otherwise."},
	{AddressTaken, Error, "AddressTaken", "The virtual address a Service asks for belongs to another Service. It gets another one."},
	{HostDefinedTwice, Warning, "HostDefinedTwice", "Two objects in one namespace define the same host name, and the older one is used; a Kubernetes Service before any ServiceEntry. ServiceEntries that agree on resolution, location, workloadSelector and exportTo are joined instead: their ports, addresses and endpoints add up, and only of a port that they define differently the older definition is used."},
	{RuleIgnored, Warning, "RuleIgnored", "Another object of the same kind and scope is older and wins; this one has no effect there."},
	{AddressesExhausted, Error, "AddressesExhausted", "Every virtual address of the range is in use. The Service cannot be called until another one is deleted."},
	{SetAside, Warning, "SetAside", "Part of an object could not be brought into the proxies' configuration, or was decided against what was probably meant. The rest of the object is in force."},
	{ImportsNothing, Warning, "ImportsNothing", "A host of a Sidecar stands for no service that is there and exported to its namespace. Workloads see no more by it."},
	{NotDiscovered, Warning, "NamespaceNotDiscovered", "The object is in a namespace that the discoverySelectors of MeshConfig leave out. Nothing in such a namespace is part of the mesh: its services cannot be called by name, and its policies are not enforced."},
	{AuthorityEnds, Warning, "CertificateAuthorityEnds", "More than half of the life of the signing certificate or of the root of the mesh is over (of ten years, nine), or it ends within a month and has no successor. After its end no certificate is made and none is accepted. Replace it in time: put a new certificate of the same root, or of a new one, into the Secret cacerts or the folder of --ca; who signs and what is trusted then changes by itself, in an order that cuts nobody off. A root that the mesh made for itself is succeeded without anybody's doing."},
	{AuthorityUnusable, Error, "CertificateAuthorityUnusable", "The files of the certificate authority cannot be used as they are now, or a successor of the root cannot be written. The authority that was in force stays so in the replicas that have it; new ones may not start."},
	{PlaintextProxy, Warning, "PlaintextProxy", "A proxy as of Istio 1.0 (compatibilityVersion=1.0) takes its configuration in plaintext and has no certificate. What it sends and receives is not encrypted, nobody proves who it is, and where mutual TLS is required it is refused."},
	{AuthorityChanges, Info, "CertificateAuthorityChanges", "Another root is coming into force. It signs once everybody who holds a usable certificate trusts it, and the old one stays trusted until no usable certificate leads to it. Do not restart the control plane meanwhile: what it starts with is in force at once."},
	{IdentityHorizon, Warning, "IdentityHorizon", "A certificate in use will end without having been renewed, or all will, because none can be made. The message says when, of whom, and why; `weir identity` says more."},
	{KeysUnreachable, Warning, "KeysUnreachable", "The control plane cannot fetch the keys by which tokens of a RequestAuthentication are verified. Keys that were fetched before stay in force; if none ever were, all tokens that need them are refused (401) until they are."},
	{ProxyVersion, Warning, "ProxyVersion", "Proxies are more than two minor versions older than their control plane, or newer. No version of Weir promises that they understand what they are sent: they may refuse some of it, and go on with what they had."},
	{WatchSilent, Warning, "WatchSilent", "The API server of Kubernetes answers, but a watch of it says nothing, not even the bookmark that is due every minute. All objects of the kind are read every few minutes instead: nothing is lost, and changes are seen late."},
	{AsksForNobody, Error, "AsksForNobody", "The label istio.io/rev of an object or a namespace, or of pods where their namespace says nothing, names neither a revision that is installed nor a tag; or istio-injection=enabled (of pods: sidecar.istio.io/inject=true) is there and no revision or tag is called default. The object is in force at no control plane. Pods that start in the namespace, or have the label, get no proxy: what they send is not encrypted, and no policy is asked. `weir tag list` shows the names there are."},
	{ClusterAway, Warning, "ClusterAway", "The API server of Kubernetes does not answer, or needs seconds for a request. What is changed in the cluster meanwhile is not seen, or late. What is known stays in force: proxies keep their configuration, certificates are given to pods whose token is known."},
	{ClockJumped, Warning, "ClockJumped", "The clock of a machine jumped within the last hour, as a proxy on it noticed: the machine slept, or its clock was set. Proxies renew certificates that ended meanwhile before they make calls; a call about that time may have been refused nevertheless, because a certificate seemed ended or not yet begun. A clock that stays wrong has to be set. `weir proxy identity WORKLOAD` tells of it afterwards."},
	{TooManySeries, Warning, "TooManySeries", "A proxy has more series of metrics than it keeps (20,000 a worker), because peers sent too many names, identities or statuses. No request is lost, and none uncounted: those without a series of their own are counted under the workload __overflow__ (weir_proxy_series_overflow_total). The message says where most of them are. It is said for an hour after the last one."},
	{RootStillNeeded, Warning, "RootStillNeeded", "A root is to be trusted no longer, and connected workloads show certificates that lead to it. While it is only left out of root-cert.pem it stays trusted until none does, and nobody is refused: wait, and keep what the control plane remembers of it (ca/handover.pem, Secret istio-ca-handover). One that is cut off (distrusted.pem), or that a control plane does not know of any more, is trusted no longer at once: those who have renewed refuse the others. Counted are proxies that say what they show, as Weir's do."},
	{AlwaysChanging, Warning, "AlwaysChanging", "An object, or the endpoints of a service, changed at least six times in each of the last ten minutes: every time what is made of it is made again and sent to the proxies that use it. A rollout is over by then, and a container that ends again and again is restarted less often; so it is an endpoint that becomes ready and unready, or somebody who writes an object again and again, often two controllers that do not agree. The message names the one that changes most."},
	{WouldRefuse, Warning, "WouldRefuseCallers", "A PeerAuthentication that is about to be applied demands mutual TLS at a port that somebody called in plaintext within the last day. Once it is in force such calls are refused. It is said by `weir apply`, with --dry-run before anything is changed, and by the webhook to whoever applies it with kubectl (of what that replica of the control plane has seen); once in force, `weir why` tells of each that was refused."},
	{CertificateEnds, Warning, "CertificateEnds", "A certificate that somebody put into a Secret or a file, for a gateway or for calls that a DestinationRule speaks of, ends within a month, or has less than a quarter of its life left if that is less. Nobody in the mesh can renew it. The message says where it is and what breaks when it ends; `weir identity` lists all of them."},
	{NodeAgentAway, Warning, "NodeAgentAway", "The node agent of a node (DaemonSet istio-cni-node) is not there or not ready. Pods on the node run on; those that start wait for it, and rules that a running pod loses are not made again. A node that is tainted until its agent is ready takes no pods."},
	{ReplicaAway, Warning, "ReplicaAway", "A replica of the control plane is not ready, or does not answer the others. They do its work; what is connected to it or known by it alone is not in what is shown."},
	{InjectorAway, Error, "InjectorAway", "The API server does not reach the webhooks of a revision. Pods that ask for its proxies do not start, and objects of the mesh cannot be changed, until it does: neither runs without having been asked about. Who waits is told to try again as soon as the webhooks answer."},
	{LeaderAway, Warning, "LeaderAway", "None of the control planes does what one does for all: the one that held the Lease has not renewed it, and none could take it. Proxies and pods are served; roots in namespaces, status of objects, rotation of the authority and caBundles of webhooks stay as they are."},

	{ImageNotRunnable, Error, "ImageNotRunnable", "In local mode containers run as processes. The image is none of the built-in samples and the container has no command, so there is nothing to run. Pods that run stay as they are."},
	{ValueNotAvailable, Error, "ValueNotAvailable", "In local mode a variable asks for something that only exists in a cluster. Pods that run stay as they are."},
	{NoLocalEffect, Info, "NoLocalEffect", "In local mode the field has no effect, because containers run as processes of this machine."},

	{InjectionRefused, Error, "InjectionRefused", "The pod should get a proxy, and something it says about the proxy cannot be done. It is not started: without the proxy it would run unprotected."},
	{NotInjectable, Warning, "NotInjectable", "The pod asks for a proxy and cannot have one, because of what it is (hostNetwork) or because its namespace says otherwise (istio-injection=disabled). It runs outside the mesh."},
	{AnnotationNotEnforced, Warning, "AnnotationNotEnforced", "The annotation is Istio's and has no effect here."},
	{PodSecurityForbids, Warning, "PodSecurityForbids", "The namespace's pod security level forbids what capturing traffic needs (the capability NET_ADMIN in the init container). The API server refuses the pod."},
	{ProxyPortTaken, Warning, "ProxyPortTaken", "A container listens on a port of the proxy. One of the two cannot start."},
	{ProbeNotRewritten, Warning, "ProbeNotRewritten", "A probe cannot be led through the proxy. It goes to the application directly and fails where only mutual TLS is accepted."},
	{BeforeProxy, Info, "BeforeProxy", "An init container runs before the proxy. What it sends goes past the mesh, in plaintext."},
	{JobMayNotEnd, Warning, "JobMayNotEnd", "The proxy is a container of a Job's pod. Kubernetes counts the Job as running for as long as the proxy runs."},
	{HandWrittenProxy, Info, "HandWrittenProxy", "The pod brings a proxy that starts itself by its own command. It is kept; what it lacks is added."},
	{InjectorSetting, Warning, "InjectorSetting", "A setting of the injector is not known, or has no effect. The others are in force."},
	{TrafficNotCaptured, Error, "TrafficNotCaptured", "A pod that should be in the mesh has no rules that lead its traffic through its proxy. What of it runs is unprotected: its calls are not encrypted, and no policy is asked about those it takes. Either the node agent has labelled it (cni.istio.io/uninitialized), or its proxy or its init container istio-validation ended with status 126, which says that the rules are missing. The message says whether its application runs. As a warning: the rules of a running pod were gone and were made again, within the last hour."},
}
