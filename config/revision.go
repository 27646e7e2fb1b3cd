package config

// Labels by which namespaces and objects ask for a control plane.
const (
	RevisionLabel  = "istio.io/rev"
	InjectionLabel = "istio-injection"
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

// Strand notes that the object asks for a revision or tag that there is not: no control plane has it in force. Sources do that.
func (o *Object) Strand(name string) {
	o.astray = name
	o.Place += " asks for " + name
}

// Astray is the revision or tag that the object asks for if there is none, otherwise "".
func (o *Object) Astray() string { return o.astray }
