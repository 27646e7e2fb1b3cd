package jwt

// Status is what became of a token.
type Status uint8

// Statuses, as Envoy's jwt_verify_lib has them.
const (
	OK Status = iota
	Missing
	NotYetValid
	Expired
	BadFormat
	HeaderBase64
	HeaderJSON
	HeaderAlgorithm
	UnknownAlgorithm
	HeaderKeyID
	PayloadBase64
	PayloadJSON
	ClaimIssuer
	ClaimSubject
	ClaimAudience
	ClaimIssuedAt
	ClaimNotBefore
	ClaimExpires
	SignatureBase64
	UnknownIssuer
	AudienceNotAllowed
	VerificationFails
	NoMatchingKey
	NoKeys // none were ever fetched

	numStatuses
)

var texts = [numStatuses]string{
	OK:                 "OK",
	Missing:            "Jwt is missing",
	NotYetValid:        "Jwt not yet valid",
	Expired:            "Jwt is expired",
	BadFormat:          "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
	HeaderBase64:       "Jwt header is an invalid Base64url encoded",
	HeaderJSON:         "Jwt header is an invalid JSON",
	HeaderAlgorithm:    "Jwt header [alg] field is required and must be a string",
	UnknownAlgorithm:   "Jwt header [alg] is not supported",
	HeaderKeyID:        "Jwt header [kid] field must be a string",
	PayloadBase64:      "Jwt payload is an invalid Base64url encoded",
	PayloadJSON:        "Jwt payload is an invalid JSON",
	ClaimIssuer:        "Jwt payload [iss] field must be a string",
	ClaimSubject:       "Jwt payload [sub] field must be a string",
	ClaimAudience:      "Jwt payload [aud] field must be a string or string list",
	ClaimIssuedAt:      "Jwt payload [iat] field must be a positive integer",
	ClaimNotBefore:     "Jwt payload [nbf] field must be a positive integer",
	ClaimExpires:       "Jwt payload [exp] field must be a positive integer",
	SignatureBase64:    "Jwt signature is an invalid Base64url encoded",
	UnknownIssuer:      "Jwt issuer is not configured",
	AudienceNotAllowed: "Audiences in Jwt are not allowed",
	VerificationFails:  "Jwt verification fails",
	NoMatchingKey:      "Jwks doesn't have key to match kid or alg from Jwt",
	NoKeys:             "Jwks remote fetch is failed",
}

// String is what the caller is told.
func (s Status) String() string { return texts[s] }
