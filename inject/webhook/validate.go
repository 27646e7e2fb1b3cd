package webhook

import (
	"bytes"
	"encoding/json"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// tolerated codes are errors that do not keep an object out: it may be stored, and who
// stores it is told that it has no effect.
var tolerated = map[config.Code]bool{config.KindNotEnforced: true, config.UnknownKind: true, config.KindNotUsed: true, config.AsksForNobody: true}

// validate answers /validate: what is wrong with the object itself refuses it, what is
// wrong beside other objects is a warning, since those may still come.
func (s *Server) validate(r review) verdict {
	if r.SubResource != "" || r.Operation != admissionv1.Create && r.Operation != admissionv1.Update {
		return verdict{}
	}
	labels := []string{r.Resource.Group, r.Resource.Version, r.Resource.Resource}
	fail := func(reason, message string) verdict {
		s.metrics.invalid.WithLabelValues(append(labels, reason)...).Inc()
		return verdict{denied: message}
	}
	part := document.Part{Text: string(r.Object.Raw), Line: 1}
	root, err := document.Parse(part)
	if err != nil || root == nil {
		return fail("unmarshal_error", "the object cannot be read")
	}
	o, findings := config.NewObject(root, part, "", r.Namespace)
	if o != nil {
		findings = append(findings, s.o.Validate(o)...)
	}
	// An object that is on its way out, or whose words stay as they are, is never held
	// back: finalizers and labels of a bad object must remain editable.
	leave := root.Get("metadata").Get("deletionTimestamp").String() != "" || r.Operation == admissionv1.Update && sameSpec(r.OldObject.Raw, r.Object.Raw)
	var v verdict
	var why []string
	for _, f := range config.Tidy(findings) {
		own := o == nil || f.Object == o.Ref
		switch {
		case f.Severity == config.Error && own && !tolerated[f.Code] && !leave && !beside[f.Code]:
			why = append(why, sentence(f))
		case f.Severity >= config.Warning:
			v.warnings = append(v.warnings, warning(f))
		}
	}
	if len(why) > 0 {
		deny := fail("invalid_resource", strings.Join(why, "; "))
		deny.warnings = v.warnings
		return deny
	}
	s.metrics.valid.WithLabelValues(labels...).Inc()
	return v
}

// beside are errors that another object makes or mends.
var beside = map[config.Code]bool{
	config.ReferenceNotFound: true, config.ConflictingMeshHosts: true, config.ConflictingSidecars: true, config.MultipleSidecars: true, config.PortSelectorRequired: true,
	config.ConflictingGateways: true, config.InvalidCredential: true, config.SubsetSelectsNothing: true, config.ContradictingTLS: true, config.AddressTaken: true, config.AddressesExhausted: true,
}

func sameSpec(before, after []byte) bool {
	var a, b struct {
		Spec json.RawMessage `json:"spec"`
	}
	if json.Unmarshal(before, &a) != nil || json.Unmarshal(after, &b) != nil {
		return false
	}
	var x, y bytes.Buffer
	if json.Compact(&x, a.Spec) != nil || json.Compact(&y, b.Spec) != nil {
		return false
	}
	return bytes.Equal(x.Bytes(), y.Bytes())
}
