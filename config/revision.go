package config

import "strings"

// Labels by which namespaces and objects ask for a control plane.
const (
	RevisionLabel  = "istio.io/rev"
	InjectionLabel = "istio-injection"
	InjectLabel    = "sidecar.istio.io/inject" // of a pod
)

// AskedBy is the revision or tag that the labels of a namespace ask for proxies; "" is none.
func AskedBy(labels map[string]string) string {
	switch says, ok := labels[InjectionLabel]; {
	case says == "enabled":
		return "default"
	case ok:
		return ""
	}
	return labels[RevisionLabel]
}

// AskedByPod is the revision or tag that the labels of a pod ask for a proxy where its namespace's say nothing, and the label that does; "" is none.
func AskedByPod(labels map[string]string) (name, label string) {
	switch rev := labels[RevisionLabel]; {
	case labels[InjectLabel] == "false":
	case rev != "":
		return rev, RevisionLabel + "=" + rev
	case labels[InjectLabel] == "true":
		return "default", InjectLabel + "=true"
	}
	return "", ""
}

// Strand notes that the object asks for a revision or tag that there is not: no control plane has it in force. Sources do that.
func (o *Object) Strand(name string) {
	o.astray = name
	o.Place += " asks for " + name
}

// Know notes on a Namespace which revisions and tags there are, so that what runs in it can be asked whom it asks for. Sources do that.
func (o *Object) Know(names []string) {
	o.names = names
	o.Place += " of " + strings.Join(names, ",")
}

// Names are the revisions and tags that there are; nil: the source does not know.
func (o *Object) Names() []string { return o.names }

// Astray is the revision or tag that the object asks for if there is none, otherwise "".
func (o *Object) Astray() string { return o.astray }
