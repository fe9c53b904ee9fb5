# Terraform: a KMS key for MySQL's keyring, and a role for the EC2 instance that uses it.
# policy.json and trust-ec2.json, beside this file, are the policies that keyring_aws-credentials(7)
# explains.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "region" {
  description = "the region of the KMS key and of the server"
  type        = string
}

variable "administrators" {
  description = "ARNs of the users and roles that manage the KMS key: yours among them"
  type        = list(string)
}

variable "name" {
  description = "of the alias, the role and the instance profile"
  type        = string
  default     = "mysql"
}

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  root    = "arn:${data.aws_partition.current.partition}:iam::${local.account}:root"
  role    = "arn:${data.aws_partition.current.partition}:iam::${local.account}:role/${var.name}"
}

# Administrators manage the key and cannot use it. The role uses it and cannot manage it: for this
# one role, and nobody else, the key lets IAM policies decide.
resource "aws_kms_key" "mysql" {
  description             = "MySQL keyring"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Administration"
        Effect    = "Allow"
        Principal = { AWS = var.administrators }
        Action = [
          "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey",
          "kms:DisableKey", "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation",
          "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListAliases", "kms:ListGrants",
          "kms:ListKeyPolicies", "kms:ListKeyRotations", "kms:ListResourceTags",
          "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion", "kms:TagResource",
          "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
        ]
        Resource = "*"
      },
      {
        Sid       = "Use"
        Effect    = "Allow"
        Principal = { AWS = local.root }
        Action = [
          "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext",
          "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:RotateKeyOnDemand",
        ]
        Resource  = "*"
        Condition = { ArnEquals = { "aws:PrincipalArn" = local.role } }
      },
    ]
  })

  # Without the key all encrypted tables and their backups are lost.
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "mysql" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.mysql.key_id
}

resource "aws_iam_role" "mysql" {
  name               = var.name
  assume_role_policy = file("${path.module}/trust-ec2.json")
}

resource "aws_iam_role_policy" "keyring" {
  name   = "keyring"
  role   = aws_iam_role.mysql.id
  policy = replace(file("${path.module}/policy.json"), "KEY", aws_kms_key.mysql.arn)
}

resource "aws_iam_instance_profile" "mysql" {
  name = var.name
  role = aws_iam_role.mysql.name
}

output "key_arn" {
  description = "for cmk_id in the settings file, or keyring_aws_cmk_id in my.cnf"
  value       = aws_kms_key.mysql.arn
}

output "instance_profile" {
  description = "for the instance: aws ec2 associate-iam-instance-profile"
  value       = aws_iam_instance_profile.mysql.name
}
