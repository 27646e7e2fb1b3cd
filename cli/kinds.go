package cli

import (
	"regexp"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
)

// kind is a kind of objects and what people call it.
type kind struct {
	name    string
	plural  string
	short   string // kubectl's and Istio's; "" if there is none
	group   string // of its API
	cluster bool   // its objects have no namespace
}

const (
	networking = "networking.istio.io"
	security   = "security.istio.io"

	// What is shown as the registry sees it, and not only as objects.
	servicesKind  = "Service"
	endpointsKind = "Endpoints"
)

// kinds are those the mesh is made of. Others may be asked for by their full name.
var kinds = []kind{
	{name: "VirtualService", plural: "virtualservices", short: "vs", group: networking},
	{name: "DestinationRule", plural: "destinationrules", short: "dr", group: networking},
	{name: "Gateway", plural: "gateways", short: "gw", group: networking},
	{name: "ServiceEntry", plural: "serviceentries", short: "se", group: networking},
	{name: "WorkloadEntry", plural: "workloadentries", short: "we", group: networking},
	{name: "Sidecar", plural: "sidecars", group: networking},
	{name: "PeerAuthentication", plural: "peerauthentications", short: "pa", group: security},
	{name: "RequestAuthentication", plural: "requestauthentications", short: "ra", group: security},
	{name: "AuthorizationPolicy", plural: "authorizationpolicies", short: "ap", group: security},
	{name: "ServiceRole", plural: "serviceroles", group: "rbac.istio.io"},
	{name: "ServiceRoleBinding", plural: "servicerolebindings", group: "rbac.istio.io"},
	{name: "RbacConfig", plural: "rbacconfigs", group: "rbac.istio.io"},
	{name: "ClusterRbacConfig", plural: "clusterrbacconfigs", group: "rbac.istio.io", cluster: true},
	{name: "Policy", plural: "policies", group: "authentication.istio.io"},
	{name: "MeshPolicy", plural: "meshpolicies", group: "authentication.istio.io", cluster: true},
	{name: servicesKind, plural: "services", short: "svc"},
	{name: endpointsKind, plural: "endpoints", short: "ep"},
	{name: "ServiceAccount", plural: "serviceaccounts", short: "sa"},
	{name: "Deployment", plural: "deployments", short: "deploy", group: "apps"},
	{name: "Pod", plural: "pods", short: "po"},
	{name: "ConfigMap", plural: "configmaps", short: "cm"},
	{name: "Secret", plural: "secrets"},
	{name: eventsKind, plural: "events", short: "ev"},
	{name: "Namespace", plural: "namespaces", short: "ns", cluster: true},
}

// allKinds is the word for every kind.
const allKinds = "all"

// kindOf finds what a person calls a kind, in kubectl's way with group, or version and
// group, too: "vs", "VirtualService", "virtualservices.v1.networking.istio.io". Kinds that
// are not in the table keep the name they were given; known says which.
func kindOf(word string) (k kind, known bool) {
	name, group, _ := strings.Cut(strings.ToLower(word), ".")
	for _, k := range kinds {
		if name != strings.ToLower(k.name) && name != k.plural && (name == "" || name != k.short) {
			continue
		}
		version, rest, _ := strings.Cut(group, ".")
		if group == "" || group == k.group || rest == k.group && isVersion.MatchString(version) {
			return k, true
		}
	}
	return kind{name: word, plural: word}, false
}

var isVersion = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?$`)

// nearKind is the kind that an unknown word was probably meant to be, in plural.
func nearKind(word string) string {
	var words []string
	for _, k := range kinds {
		words = append(words, k.plural)
	}
	return document.Suggest(strings.ToLower(word), words)
}

// target is an object, or objects, that a command line names.
type target struct {
	kind      kind
	known     bool
	namespace string // "" in all
	name      string // "" for all of the kind
}

// targets reads KIND, KIND NAME..., KIND,KIND and KIND/NAME... A name may be
// NAMESPACE/NAME, as it stands in findings.
func targets(args []string, namespace string) ([]target, error) {
	var out []target
	add := func(word, name string) {
		t := target{namespace: namespace, name: name}
		if word != allKinds {
			t.kind, t.known = kindOf(word)
		}
		if ns, rest, ok := strings.Cut(name, "/"); ok {
			t.namespace, t.name = ns, rest
		}
		if t.kind.cluster {
			t.namespace = ""
		}
		out = append(out, t)
	}
	if strings.Contains(args[0], "/") {
		for _, arg := range args {
			word, name, ok := strings.Cut(arg, "/")
			if !ok || word == "" || name == "" || strings.HasSuffix(name, "/") {
				return nil, usage("for example virtualservice/reviews", "%q is not KIND/NAME", arg)
			}
			add(word, name)
		}
		return out, nil
	}
	for word := range strings.SplitSeq(args[0], ",") {
		if len(args) == 1 {
			add(word, "")
		}
		for _, name := range args[1:] {
			add(word, name)
		}
	}
	if i := slices.IndexFunc(out, func(t target) bool { return t.kind.name == "" && t.name != "" }); i >= 0 {
		return nil, usage("name the kind: `weir get virtualservice "+out[i].name+"`", "%q with a name is ambiguous", allKinds)
	}
	return out, nil
}
